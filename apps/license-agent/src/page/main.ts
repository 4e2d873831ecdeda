import type { LicenseAnswer } from '../api.ts';
import { Client, type Failure, type Outcome } from './client.ts';
import { failureText, mayAct, statusOf, supportTextOf } from './story.ts';
import { find, problemAt, say, show, showFailure, showPreview, showRequest } from './view.ts';
import { count } from './words.ts';

/** The License Management page: the user's actions, and their effects. */

const everyMs = 15_000;
const kept = 'The license in use was not changed.';
const largest = 250_000;

const key = find<HTMLTextAreaElement>('#key');
const shortcuts = find<HTMLInputElement>('#shortcuts');
const preview = find<HTMLDialogElement>('#preview');
const confirmation = find<HTMLDialogElement>('#confirm');

let client: Client | null = null;
let last: { readonly license: LicenseAnswer; readonly seenAt: string } | null = null;
/** Why the agent could not be asked; why it did not refresh; the code of what it refused last. */
let failure: Failure | null = null;
let notice: Failure | null = null;
let refused: string | null = null;
/** The text the preview is of. The field may have changed since. */
let checked = '';
/** Answers so far: an answer overtaken by another is ignored. */
let answers = 0;

/** A browser that keeps nothing for this page costs comfort, and no more. */
function remember(store: 'localStorage' | 'sessionStorage', name: string, value?: string | null): string | null {
  try {
    if (value === null) window[store].removeItem(name);
    else if (value !== undefined) window[store].setItem(name, value);
    return window[store].getItem(name);
  } catch {
    return null;
  }
}
const tokenName = 'license-agent.token';
const lastName = 'license-agent.last';
const shortcutsName = 'license-agent.shortcuts';

// ---- what is known ----

function render(): void {
  const now = new Date().toISOString();
  if (last) show({ ...last, now, failure, notice, refused });
  else if (failure) showFailure(failure);
}

/** Processes any answer. True: it was a license. */
function learn(outcome: Outcome): outcome is Extract<Outcome, { ok: true }> {
  answers += 1;
  if (outcome.ok) {
    last = { license: outcome.license, seenAt: new Date().toISOString() };
    failure = null;
    remember('sessionStorage', lastName, JSON.stringify(last));
  } else if (outcome.status === 401) askForToken('The token was not accepted. Enter the agent token again.');
  render();
  return outcome.ok;
}

async function load(): Promise<boolean> {
  if (!client) return false;
  const before = answers;
  const outcome = await client.read();
  if (!client || answers !== before) return false;
  if (!outcome.ok && outcome.status !== 401) failure = outcome;
  return learn(outcome);
}

/** From time to time, and when the user comes back to the page. */
async function look(): Promise<void> {
  if (!client || document.hidden || busy.size > 0) return;
  const before = last && statusOf(last.license).text;
  const hadFailure = failure;
  await load();
  const now = last && statusOf(last.license).text;
  if (failure && !hadFailure) say(`${failure.title}. What you see is the last known state.`);
  else if (hadFailure && !failure) say(`The license agent answers again. Status: ${now}.`);
  else if (before !== now) say(`Status: ${now}.`);
}

// ---- who asks ----

function askForToken(problem = ''): void {
  client = null;
  remember('sessionStorage', tokenName, null);
  for (const dialog of [preview, confirmation]) dialog.close();
  signedIn(false);
  const place = find('#token-problem');
  place.hidden = problem === '';
  place.textContent = problem;
  find<HTMLInputElement>('#token').setAttribute('aria-invalid', String(problem !== ''));
  find('#token').focus();
}

function signedIn(yes: boolean): void {
  find('#sign-in').hidden = yes;
  find('#page').hidden = !yes;
  for (const element of document.querySelectorAll<HTMLElement>('[data-signed-in]')) element.hidden = !yes;
}

async function signIn(token: string): Promise<void> {
  // A header allows no other characters, and no token has any.
  if (!/^[\x21-\x7e]+$/.test(token)) return askForToken('The token was not accepted. Enter the agent token again.');
  client = new Client(token);
  const field = find<HTMLInputElement>('#token');
  const outcome = await client.read();
  if (!outcome.ok && outcome.status === 401) return void learn(outcome);
  remember('sessionStorage', tokenName, token);
  field.value = '';
  signedIn(true);
  if (!outcome.ok) failure = outcome;
  learn(outcome);
  arrive();
}

/** The start for the user: without a license there is one thing to do. */
function arrive(): void {
  if (last?.license.status !== 'none') find('#status').focus();
  else (acts() ? key : find('#empty')).focus();
  say(last ? `Status: ${statusOf(last.license).text}.` : (failure?.title ?? ''));
}

// ---- what can be done ----

const acts = () => last === null || mayAct(last.license);

const busy = new Set<string>();

/** One at a time of each; the button says so and keeps the focus. */
async function once(name: string, buttons: readonly HTMLElement[], work: () => Promise<void>): Promise<void> {
  if (busy.has(name)) return;
  busy.add(name);
  const mark = (is: boolean) => {
    for (const button of buttons) {
      button.ariaBusy = is ? 'true' : null;
      button.ariaDisabled = is ? 'true' : null;
    }
  };
  mark(true);
  try {
    await work();
  } finally {
    busy.delete(name);
    mark(false);
  }
}

const refresh = () => once('refresh', [find('[data-action="refresh"]')], async () => {
  if (!client) return;
  const outcome = await client.refresh();
  notice = outcome.ok || outcome.status === 0 || outcome.status === 401 ? null : outcome;
  refused = notice?.code ?? null;
  if (!outcome.ok && outcome.status === 0) failure = outcome;
  if (learn(outcome)) return say(`Refreshed. Status: ${statusOf(outcome.license).text}.`);
  if (!client) return;
  // The agent's own state may have changed, even if the server could not be asked.
  if (notice) await load();
  const { title, text } = failureText(outcome);
  say(`Not refreshed. ${title}. ${text}`);
});

function keyProblem(problem: Failure | null): void {
  refused = problem?.code ?? null;
  key.setAttribute('aria-invalid', String(problem !== null));
  problemAt('#key-problem', problem, kept);
  render();
}

const own = (title: string, detail: string): Failure => ({ ok: false, status: 0, code: 'VALIDATION_FAILED', title, detail, members: {} });

const check = () => once('update', [find('#update .primary')], async () => {
  const text = key.value.trim();
  if (!client) return;
  if (text === '') keyProblem(own('Enter a license key', 'Or choose a license file.'));
  else if (text.length > largest) keyProblem(own('This is not a license', 'It is larger than any license is.'));
  else {
    const outcome = await client.preview(text);
    if (outcome.ok) {
      keyProblem(null);
      problemAt('#preview-problem', null);
      checked = text;
      showPreview(last?.license ?? null, outcome.license);
      preview.showModal();
      find('#preview-title').focus();
      return;
    }
    if (!learn(outcome) && client) keyProblem(outcome);
  }
  key.focus();
});

const apply = () => once('apply', [find('[data-action="apply"]')], async () => {
  if (!client) return;
  const outcome = await client.update(checked);
  if (learn(outcome)) {
    notice = null;
    key.value = '';
    keyProblem(null);
    preview.close();
    find('#status').focus();
    return say(`License activated. Status: ${statusOf(outcome.license).text}.`);
  }
  if (client) problemAt('#preview-problem', outcome, kept);
});

const deactivate = () => once('deactivate', [find('[data-action="confirm-deactivate"]')], async () => {
  if (!client) return;
  const outcome = await client.deactivate();
  if (learn(outcome)) {
    notice = null;
    keyProblem(null);
    confirmation.close();
    (outcome.license.status === 'none' ? key : find('#status')).focus();
    return say(`License deactivated. Status: ${statusOf(outcome.license).text}.`);
  }
  if (client) problemAt('#confirm-problem', outcome);
});

async function fileIn(file: File | undefined): Promise<void> {
  if (!file || !client) return;
  if (file.size > largest) return keyProblem(own('This is not a license', `${file.name} is larger than any license is.`));
  key.value = await file.text();
  say(`${file.name} read.`);
  await check();
}

/** Made anew whenever the user opens it, so that it is current; if the agent does not answer, the earlier request is still good. */
async function askForRequest(): Promise<void> {
  const outcome = await client?.request();
  if (!outcome) return;
  problemAt('#request-problem', outcome.ok ? null : outcome);
  if (outcome.ok) showRequest(outcome.request);
  else if (outcome.status === 401) askForToken('The token was not accepted. Enter the agent token again.');
}

async function copied(text: string, what: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages of plain http from another machine have no clipboard of the newer kind.
    const area = document.body.appendChild(document.createElement('textarea'));
    const focused = document.activeElement as HTMLElement | null;
    area.className = 'unseen';
    area.value = text;
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    focused?.focus();
    if (!done) return say(`${what} could not be copied.`);
  }
  say(`${what} copied.`);
}

function save(name: string, text: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: 'text/plain' }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href));
}

const actions: Record<string, (button: HTMLElement) => unknown> = {
  refresh,
  apply,
  deactivate() {
    problemAt('#confirm-problem', null);
    confirmation.showModal();
  },
  'confirm-deactivate': deactivate,
  close: (button) => button.closest('dialog')?.close(),
  copy: ({ dataset }) => copied(dataset['copy'] ?? '', dataset['label'] ?? ''),
  'copy-all': () => last && copied(supportTextOf(last.license, last.seenAt), count(supportTextOf(last.license, last.seenAt).split('\n').length, 'line')),
  'copy-request': () => copied(find('#request').textContent ?? '', 'Request'),
  'save-request': () => save('license-request.txt', find('#request').textContent ?? ''),
  'focus-key': () => key.focus(),
  forget: () => {
    remember('sessionStorage', lastName, null);
    last = null;
    askForToken();
  },
};

document.addEventListener('click', ({ target }) => {
  const button = target instanceof Element ? target.closest<HTMLElement>('[data-action]') : null;
  if (button && button.ariaDisabled !== 'true') actions[button.dataset['action'] ?? '']?.(button);
});
find<HTMLFormElement>('#sign-in').addEventListener('submit', (event) => {
  event.preventDefault();
  void once('sign-in', [find('#sign-in .primary')], () => signIn(find<HTMLInputElement>('#token').value.trim()));
});
find<HTMLFormElement>('#update').addEventListener('submit', (event) => {
  event.preventDefault();
  void check();
});
find<HTMLInputElement>('#file').addEventListener('change', ({ target }) => {
  const input = target as HTMLInputElement;
  void fileIn(input.files?.[0]).then(() => { input.value = ''; });
});

// A key is one line, and Enter sends it; the lines of a file are pasted.
key.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    void check();
  } else if (event.key === 'Escape') key.blur();
});
key.addEventListener('input', () => {
  if (key.ariaInvalid === 'true') keyProblem(null);
});

const carriesFiles = ({ dataTransfer }: DragEvent) => client !== null && acts() && dataTransfer?.types.includes('Files') === true;
for (const type of ['dragover', 'dragleave', 'drop'] as const) {
  window.addEventListener(type, (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    document.body.classList.toggle('dragging', type === 'dragover');
    if (type === 'drop' && !document.querySelector('dialog[open]')) void fileIn(event.dataTransfer?.files[0]);
  });
}

find<HTMLDetailsElement>('#offline').addEventListener('toggle', ({ target }) => (target as HTMLDetailsElement).open && void askForRequest());

shortcuts.checked = remember('localStorage', shortcutsName) !== 'off';
shortcuts.addEventListener('change', () => remember('localStorage', shortcutsName, shortcuts.checked ? null : 'off'));
document.addEventListener('keydown', (event) => {
  const { target, key: pressed, ctrlKey, metaKey, altKey, isComposing } = event;
  const types = target instanceof Element && target.closest('textarea, select, [contenteditable], input:not([type="checkbox"]):not([type="file"])') !== null;
  if (!shortcuts.checked || !client || !acts() || types || ctrlKey || metaKey || altKey || isComposing || document.querySelector('dialog[open]')) return;
  if (pressed !== 'r' && pressed !== 'u') return;
  event.preventDefault();
  if (pressed === 'r') void refresh();
  else key.focus();
});

setInterval(() => void look(), everyMs);
document.addEventListener('visibilitychange', () => void look());
window.addEventListener('online', () => void look());

// ---- the start ----

/** The agent's last answer before the page was reopened, in case it does not answer now. */
function recall(): void {
  try {
    last = JSON.parse(remember('sessionStorage', lastName) ?? 'null') as typeof last;
    render();
  } catch {
    last = null;
    render();
  }
}

const token = remember('sessionStorage', tokenName);
if (token === null) askForToken();
else {
  client = new Client(token);
  signedIn(true);
  if (!(await load()) && failure) recall();
}
