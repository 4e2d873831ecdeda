import type { LicenseAnswer, RequestAnswer } from '../api.ts';
import type { Failure } from './client.ts';
import {
  activationLimitOf, bannersOf, changesOf, codesOf, connectionOf, coreQuotaOf, detailsOf, expiryOf, failureText, featuresOf, freshnessOf, mayAct, metersOf, modeOf, previewNotesOf, runtimeOf, statusOf, troubles, troublesNow, typeOf,
  type Banner, type Detail, type Stated,
} from './story.ts';
import { number, type Tone } from './words.ts';

/** Puts the texts of `story.ts` into the document. Focus, open sections and typed text stay as they are. */

type Child = Node | string;

export const find = <T extends HTMLElement = HTMLElement>(selector: string, within: ParentNode = document): T => within.querySelector<T>(selector) as T;
const all = (selector: string): HTMLElement[] => [...document.querySelectorAll<HTMLElement>(selector)];

function make(tag: string, className = '', ...children: readonly Child[]): HTMLElement {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** A symbol of index.html; every tone has one with its name. */
function icon(name: Tone | 'copy', className = ''): SVGElement {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', `#${name}`);
  svg.setAttribute('aria-hidden', 'true');
  if (className) svg.setAttribute('class', className);
  svg.append(use);
  return svg;
}

const state = ({ tone, text }: Stated): HTMLElement => make('span', `state ${tone}`, icon(tone), text);
const field = (name: string, ...children: readonly Child[]) => find(`[data-field="${name}"]`).replaceChildren(...children);

/** Unchanged elements stay, so that nothing flickers and the reader keeps the place. */
function replaced(parent: HTMLElement, children: readonly HTMLElement[]): void {
  if (parent.children.length === children.length && children.every((child, index) => child.isEqualNode(parent.children[index] as Node))) return;
  parent.replaceChildren(...children);
}

export interface Shown {
  readonly license: LicenseAnswer;
  readonly seenAt: string;
  readonly now: string;
  /** Why the agent did not answer the last request. */
  readonly failure: Failure | null;
  /** Why the last refresh failed. */
  readonly notice: Failure | null;
  /** The code of the last refusal. */
  readonly refused: string | null;
}

export function show({ license, seenAt, now, failure, notice, refused }: Shown): void {
  const none = license.status === 'none';
  const acts = mayAct(license);
  for (const element of all('[data-acts]')) element.hidden = !acts;
  for (const element of all('[data-views]')) element.hidden = acts;
  for (const element of all('[data-licensed], [data-action="deactivate"]')) element.hidden = none || (element.dataset['acts'] !== undefined && !acts);
  find('#empty').hidden = !none;
  find('[data-freshness]').textContent = freshnessOf(license, seenAt, now, failure);
  // The agent reports an unreachable server itself.
  const notices = notice && !(['NO_OUTBOUND_ACCESS', 'LICENSE_SERVER_UNAVAILABLE'].includes(notice.code) && license.server.reachable === false) ? [noticeOf(notice)] : [];
  replaced(find('#banners'), [...(failure ? [bannerOf(failure)] : []), ...notices, ...bannersOf(license)].map(banner));
  status(license);
  usage(license);
  replaced(find('#features'), featuresOf(license).map(({ label, value, included }) =>
    make('li', included ? '' : 'none', icon(included ? 'ok' : 'none', included ? 'ok' : 'none'), make('div', '', make('strong', '', label), make('span', '', value)))));
  rows(find('#details'), detailsOf(license));
  rows(find('#connection'), connectionOf(license));
  trouble(codesOf(license, refused));
}

/** For the time before the agent has ever answered. */
export function showFailure(failure: Failure): void {
  for (const element of all('[data-licensed], [data-action="deactivate"], #empty')) element.hidden = true;
  find('[data-freshness]').textContent = 'Nothing is known yet.';
  replaced(find('#banners'), [banner(bannerOf(failure))]);
  trouble(new Set([failure.code]));
}

const bannerOf = ({ code, title, detail }: Failure): Banner => ({
  tone: code === 'AGENT_UNREACHABLE' || code === 'INTERNAL' ? 'stop' : 'warn',
  title, text: code === 'AGENT_UNREACHABLE' ? `${detail} What you see is the last known state; this page tries again by itself.` : detail,
});

function noticeOf(failure: Failure): Banner {
  const { title, text } = failureText(failure);
  return { tone: 'warn', title: `Not refreshed: ${title}`, text };
}

const banner = ({ tone, title, text }: Banner): HTMLElement => make('div', `banner ${tone}`, icon(tone), make('div', '', make('strong', '', title), make('span', '', text)));

function status(license: LicenseAnswer): void {
  const expiry = expiryOf(license);
  const { daysRemaining, code, detail } = license;
  field('status', state(statusOf(license)));
  field('type', make('span', `tag ${license.type === 'trial' || license.freeTrial ? 'info' : ''}`, typeOf(license)));
  field('mode', modeOf(license.mode));
  field('expires', expiry.text, make('small', '', expiry.note));
  field('days', ...(daysRemaining === null ? ['No end'] : [make('span', daysRemaining <= 7 ? 'stop' : daysRemaining <= 14 ? 'warn' : '', number(daysRemaining))]));
  field('why', ...(code === 'VALID' ? [] : [`${detail} (${code})`]));
}

function usage(license: LicenseAnswer): void {
  field('runtime', state(runtimeOf(license)));
  field('core-quota', coreQuotaOf(license));
  field('validation-mode', detailsOf(license)[1]?.value ?? '');
  field('activation-limit', activationLimitOf(license));
  const meters = metersOf(license).map(({ label, tone, text, note, share }) => {
    const bar = make('div', 'bar', make('i'));
    bar.setAttribute('aria-hidden', 'true');
    (bar.firstChild as HTMLElement).style.setProperty('--share', `${Math.round((share ?? 0) * 1000) / 10}%`);
    return make('li', `meter ${tone}`, make('div', '', make('span', '', label), make('b', '', text)), ...(share === null ? [] : [bar]), ...(note ? [make('small', '', ...(tone === 'ok' ? [note] : [icon(tone, tone), ` ${note}`]))] : []));
  });
  replaced(find('#meters'), meters);
}

/** The labels never change: the rows are made once, and their buttons stay. */
function rows(list: HTMLElement, details: readonly Detail[]): void {
  for (const [index, { label, value, copy, variable }] of details.entries()) {
    const row = (list.children[index] ?? list.appendChild(newRow(label, variable))) as HTMLElement;
    const shown = find('dd span', row);
    if (shown.textContent !== value) shown.textContent = value;
    shown.className = copy !== null && copy === value && /^[\w.:/-]{12,}$/.test(value) ? 'mono' : '';
    const button = find<HTMLButtonElement>('button', row);
    button.hidden = copy === null;
    button.dataset['copy'] = copy ?? '';
  }
}

function newRow(label: string, variable: string | undefined): HTMLElement {
  const button = make('button', 'icon', icon('copy'));
  button.setAttribute('type', 'button');
  button.setAttribute('aria-label', `Copy ${label}`);
  button.title = `Copy ${label}`;
  button.dataset['action'] = 'copy';
  button.dataset['label'] = label;
  return make('div', '', make('dt', '', label, ...(variable === undefined ? [] : [make('code', '', variable)])), make('dd', '', make('span'), button));
}

function trouble(codes: ReadonlySet<string>): void {
  const list = find('#trouble');
  if (list.children.length === 0) {
    list.append(...troubles.map(({ title, text, steps }) => make('details', '', make('summary', '', title), make('p', '', text), make('ol', '', ...steps.map((step) => make('li', '', step))))));
  }
  const now = troublesNow(codes);
  for (const [index, trouble] of troubles.entries()) {
    const details = list.children[index] as HTMLDetailsElement;
    const marked = details.querySelector('.tag');
    if (now.has(trouble) === (marked !== null)) continue;
    details.open = now.has(trouble);
    if (marked) marked.remove();
    else find('summary', details).append(make('span', 'tag warn', icon('warn'), 'Applies now'));
  }
}

/** The new license beside the one in use. */
export function showPreview(before: LicenseAnswer | null, after: LicenseAnswer): void {
  const changes = changesOf(before, after);
  const usable = after.enforcement === 'FULL' || after.enforcement === 'WARN';
  const told = changes.length === 0 ? 'It is the same as the license in use.' : `Checked. ${number(changes.length)} ${changes.length === 1 ? 'property changes' : 'properties change'}; nothing has been applied yet.`;
  find('#preview-summary').replaceChildren([told, ...previewNotesOf(after)].join(' '), ...(usable ? [] : [make('span', 'state stop', icon('stop'), `With this license the product would be limited: ${after.detail}.`)]));
  find('#diff').replaceChildren(...changes.map(({ label, before, after }) => {
    const heading = make('th', '', label);
    heading.setAttribute('scope', 'row');
    const cells = [make('td', '', make('del', '', before)), make('td', '', make('ins', '', after))];
    cells.forEach((cell, index) => cell.setAttribute('data-label', index === 0 ? 'Now' : 'After'));
    return make('tr', '', heading, ...cells);
  }));
  find('#preview table').hidden = changes.length === 0;
}

/** As text, and as a QR code of it, for a person with a camera and no cable. */
export function showRequest({ text, qr }: RequestAnswer): void {
  find('#request').textContent = text;
  for (const element of all('#request, #offline .actions')) element.hidden = false;
  find('#qr').hidden = qr === null;
  if (!qr) return;
  const svg = find('#qr svg');
  svg.setAttribute('viewBox', `-4 -4 ${qr.size + 8} ${qr.size + 8}`);
  find('#qr path').setAttribute('d', qr.path);
}

/** Shows the problem at the field or button concerned. */
export function problemAt(selector: string, failure: Failure | null, kept = ''): void {
  const place = find(selector);
  place.hidden = failure === null;
  if (!failure) return place.replaceChildren();
  const { title, text } = failureText(failure);
  place.replaceChildren(make('strong', '', title), [text, kept].filter(Boolean).join(' '));
}

/** For screen readers. */
export function say(text: string): void {
  // The same text is only announced again if it was gone in between.
  find('#said').textContent = '';
  setTimeout(() => { find('#said').textContent = text; }, 50);
}
