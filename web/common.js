// What the Taste tab and the node Collect Preferences share: the server's routes, the words, the answers' keys.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const CHANGED = "ppd.taste"; // the server's message that a person's questions or picks are others now
export const LAST_PERSON = "ppd.person"; // where the browser keeps the id of the person chosen in the tab
export const CHOSEN = "ppd.person"; // the page's own message that another one is chosen there
export const NEWS = "ppd.news"; // the page's own message: what the server tells that no answer in this window has told
export const ANSWERED = "ppd.answered"; // the page's own message: how a person stands after a press in this window, and which question was answered last
/** @type {Record<string, PPD.Verdict>} */
export const VERDICTS = { ArrowLeft: "first", ArrowRight: "second", ArrowUp: "tie", ArrowDown: "skip" };

const catalogs = api.getCustomNodesI18n().then(({ en, ja }) => ({ en: en?.ppd ?? {}, ja: ja?.ppd ?? {} }));
/** @type {Record<string, string>} */
let words = {};

// Read the words of the language that ComfyUI is set to; what a language lacks is English.
export async function loadWords() {
    const { en, ja } = await catalogs;
    words = isJapanese() ? { ...en, ...ja } : en;
}

// Words by their key in locales/*/main.json, with {values} filled in
/** @param {string} key @param {Record<string, any>} [values] @param {string} [fallback] */
export function t(key, values = {}, fallback = key) {
    return (words[key] ?? fallback).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export const isJapanese = () => app.extensionManager.setting.get("Comfy.Locale") === "ja";

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {PPD.Properties<HTMLElementTagNameMap[Tag]>} [properties]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    Object.assign(made, properties);
    made.append(...children);
    return made;
}

// crypto.randomUUID is missing where ComfyUI is opened over plain HTTP from another machine
const drawn = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

// What a route answers, as a response; else an error of one sentence
/** @param {string} path @param {RequestInit} options */
export async function send(path, options) {
    const answer = await api.fetchApi(`/ppd/${path}`, options).catch(() => { throw new Error(t("no_answer")); });
    if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error ?? answer.statusText);
    return answer;
}

// What a route answers; with a body it is a POST, whose repetition by the network counts once.
/** @param {string} path @param {object} [body] @param {string} [method] @param {string} [request] @returns {Promise<any>} */
export async function ask(path, body, method = body ? "POST" : "GET", request = drawn()) {
    const headers = { "Content-Type": "application/json" };
    const answer = await send(path, body ? { method, headers, body: JSON.stringify({ ...body, request }) } : { method });
    return answer.json();
}

const REMEMBERED = 100; // requests
/** @type {Map<string, Promise<boolean>>} */
const own = new Map(); // requests of this window, and whether their answers have told all that they changed
/** @type {Map<string, number>} */
const heard = new Map(); // the newest revision of each person that the server told of

// The same where the answer tells all that has changed: the server's news of it are none then
/** @param {string} path @param {object} body @param {string} [request] @returns {Promise<any>} */
export function press(path, body, request = drawn()) {
    const answer = ask(path, body, "POST", request);
    own.set(request, answer.then(() => true, () => false));
    const [oldest] = own.keys();
    if (own.size > REMEMBERED) own.delete(oldest);
    return answer;
}

api.addEventListener(CHANGED, async ({ detail }) => {
    const { person, revision, request } = detail;
    if (own.has(request) && (await own.get(request))) return;
    heard.set(person, Math.max(revision, heard.get(person) ?? 0));
    api.dispatchCustomEvent(NEWS, detail);
});

// How a person stands after a press, to all in this window; who has heard newer news looks anew already
/** @param {PPD.Answered} state */
export function tell(state) {
    const { id, revision } = state.person;
    if (revision >= (heard.get(id) ?? 0)) api.dispatchCustomEvent(ANSWERED, state);
}

// Requests by what was pressed. What failed may have been done all the same, so the same press again is the same request,
// which counts once; whoever has seen how the person stands since clears them
/** @extends {Map<string, string>} */
export class Requests extends Map {
    /** @param {...unknown} pressed @returns {string} */
    of(...pressed) {
        const key = JSON.stringify(pressed);
        const request = this.get(key) ?? drawn();
        this.set(key, request);
        return request;
    }
}

/** @param {string} digest */
export const pictureURL = (digest) => api.apiURL(`/ppd/pictures/${digest}`);
/** @param {string} digest */
export const thumbnailURL = (digest) => api.apiURL(`/ppd/thumbnails/${digest}`);
