// V8 compiles what is used most while it is used, and on two cores that takes a server ten seconds of full load and more. What serves for months is
// measured as it is then, and so is what it is compared with.

/** Runs until two rounds in a row are no better than the best before them, or `atMost` of them. `round`: seconds → so many a second. */
export async function warmUp(round, atMost = 10) {
  let best = 0;
  for (let rounds = 0, worse = 0; rounds < atMost && worse < 2; rounds++) {
    const rate = await round(2);
    worse = rate > best * 1.03 ? 0 : worse + 1;
    best = Math.max(best, rate);
  }
}
