// What the Taste tab and the node Collect Preferences share: the server's routes, the words, the answers' keys.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

export const CHANGED = "ppd.taste"; // the server's message that a person's questions or picks are others now
export const LAST_PERSON = "ppd.person"; // where the browser keeps the id of the person chosen in the tab
export const CHOSEN = "ppd.person"; // the page's own message that another one is chosen there
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

const answered = new Set();

// Whether the server tells of a request of this window, which has its whole answer already
export const isOwn = ({ request }) => answered.has(request);

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

// The same where the answer tells all that has changed: the server's news of it need no second look
export function press(path, body) {
    const request = drawn();
    answered.add(request);
    return ask(path, body, "POST", request);
}

export const pictureURL = (digest) => api.apiURL(`/ppd/pictures/${digest}`);
export const thumbnailURL = (digest) => api.apiURL(`/ppd/thumbnails/${digest}`);
