// What the Taste tab and the node Collect Preferences share: the server's routes, the words, the answers' keys.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const CHANGED = "ppd.taste"; // the server's message that a person's questions or picks are others now
export const LAST_PERSON = "ppd.person"; // where the browser keeps the id of the person chosen in the tab
export const CHOSEN = "ppd.person"; // the page's own message that another one is chosen there
export const NEWS = "ppd.news"; // the page's own message: what the server tells that no answer in this window has told
export const ANSWERED = "ppd.answered"; // the page's own message: how a person stands after a press in this window, and which question was answered last
export const VERDICTS = { ArrowLeft: "first", ArrowRight: "second", ArrowUp: "tie", ArrowDown: "skip" };

const catalogs = api.getCustomNodesI18n().then(({ en, ja }) => ({ en: en?.ppd ?? {}, ja: ja?.ppd ?? {} }));
let words = {};

// Read the words of the language that ComfyUI is set to; what a language lacks is English.
export async function loadWords() {
    const all = await catalogs;
    words = { ...all.en, ...all[app.extensionManager.setting.get("Comfy.Locale")] };
}

// Words by their key in locales/*/main.json, with {values} filled in
export function t(key, values = {}, fallback = key) {
    return (words[key] ?? fallback).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export const isJapanese = () => app.extensionManager.setting.get("Comfy.Locale") === "ja";

export function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
}

// crypto.randomUUID is missing where ComfyUI is opened over plain HTTP from another machine
const drawn = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

// What a route answers; with a body it is a POST, whose repetition by the network counts once.
export async function ask(path, body, method = body ? "POST" : "GET", request = drawn()) {
    const options = { method };
    if (body) {
        options.headers = { "Content-Type": "application/json" };
        options.body = JSON.stringify({ ...body, request });
    }
    const answer = await api.fetchApi(`/ppd/${path}`, options);
    if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error ?? answer.statusText);
    return answer.json();
}

const REMEMBERED = 100; // requests
const own = new Map(); // requests of this window, and whether their answers have told all that they changed
const heard = new Map(); // the newest revision of each person that the server told of

// The same where the answer tells all that has changed: the server's news of it are none then
export function press(path, body, request = drawn()) {
    const answer = ask(path, body, "POST", request);
    own.set(request, answer.then(() => true, () => false));
    if (own.size > REMEMBERED) own.delete(own.keys().next().value);
    return answer;
}

api.addEventListener(CHANGED, async ({ detail }) => {
    const { person, revision, request } = detail;
    if (own.has(request) && (await own.get(request))) return;
    heard.set(person, Math.max(revision, heard.get(person) ?? 0));
    api.dispatchCustomEvent(NEWS, detail);
});

// How a person stands after a press, to all in this window; who has heard newer news looks anew already
export function tell(state) {
    const { id, revision } = state.person;
    if (revision >= (heard.get(id) ?? 0)) api.dispatchCustomEvent(ANSWERED, state);
}

// Requests by what was pressed. What failed may have been done all the same, so the same press again is the same request,
// which counts once; whoever has seen how the person stands since clears them
export class Requests extends Map {
    of(...pressed) {
        const key = JSON.stringify(pressed);
        if (!this.has(key)) this.set(key, drawn());
        return this.get(key);
    }
}

export const pictureURL = (digest) => api.apiURL(`/ppd/pictures/${digest}`);
export const thumbnailURL = (digest) => api.apiURL(`/ppd/thumbnails/${digest}`);
