// People in the nodes' lists: the browser shows names, the workflow and so every saved picture keeps ids. "The tab's
// person" is whoever is chosen in the tab Taste when the graph is queued: the workflow keeps "tab", the run gets the id.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ANSWERED, CHOSEN, LAST_PERSON, NEWS, ask, loadWords, t } from "./common.js";

const ME = "me"; // can always be chosen, also before there is somebody of that name
const TAB = "tab";
const TASTE = "taste: "; // what a taste file's choice begins with, in place of a person's
const MARK = "ppd_person"; // the option of an input that is a choice of people: what begins such a choice in it
/** @type {PPD.Person[]} */
let people = [];
/** @type {string | null} */
let me = null;
/** @type {Promise<void>} */
let reading;
/** @type {Promise<{ waiting: number, name: string } | null> | null} */
let counting;

// Where the store cannot be read the lists stay as the server gave them: running a node tells why
async function read() {
    /** @type {{ people: PPD.Person[], me: string | null }} */
    const found = await ask("people").catch(() => ({ people, me }));
    me = found.me;
    people = found.people.map((one) => newer(one, people.find(({ id }) => id === one.id)));
}

// An answer to a press may have come before one that was asked for earlier
/** @param {PPD.Person} one @param {PPD.Person} [other] */
const newer = (one, other) => (other && other.revision > one.revision ? other : one);

export async function everybody() {
    await reading;
    return people;
}

// As the tab does: where the chosen one is gone, the first
const tabsPerson = () => people.find(({ id }) => id === localStorage.getItem(LAST_PERSON)) ?? people[0];

/** @param {string} id */
export async function nameOf(id) {
    await reading; // they may have been made by the run that asks
    return people.find((one) => one.id === id)?.name ?? "";
}

// The tab's person, and how many questions that are really asked wait for them; null where there is nobody
export function waiting() {
    counting ??= (async () => {
        await reading;
        const person = tabsPerson();
        return person ? { ...(await ask(`people/${person.id}/waiting`)), name: person.name } : null;
    })().catch(() => null); // deleted just now: more news are on their way
    return counting;
}

/** @param {string} choice */
const idOf = (choice) => (choice === ME ? me : choice);
const choices = () => [TAB, ME, ...people.map(({ id }) => id).filter((id) => id !== me)];

/** @param {string} choice @param {string} prefix */
function label(choice, prefix) {
    if (choice === TAB) return t("tabs_person", { name: tabsPerson()?.name ?? ME });
    const person = people.find(({ id }) => id === idOf(choice));
    if (!person) return prefix + choice;
    return prefix + t(person.picks === 1 ? "name_and_pick" : "name_and_picks", person);
}

// The choice that means the same, without a name: older workflows have one
/** @param {string} choice */
function nameless(choice) {
    if (choices().includes(choice)) return choice;
    const found = people.find(({ name }) => name.toLowerCase() === String(choice).trim().toLowerCase());
    if (!found) return choice;
    return found.id === me ? ME : found.id;
}

// The input of a type of nodes that is a choice of people, as its schema says
/** @param {string} [type] */
function inputOf(type = "") {
    const { required, optional } = LiteGraph.registered_node_types[type]?.nodeData?.input ?? {};
    const found = Object.entries({ ...required, ...optional }).find(([, entry]) => entry?.[1]?.[MARK] !== undefined);
    return found && { name: found[0], prefix: String(found[1][1]?.[MARK]) };
}

/** @param {Comfy.Node} node */
function listOf(node) {
    const input = inputOf(node.constructor.comfyClass);
    const widget = input && node.widgets?.find(({ name }) => name === input.name);
    return widget && { widget, prefix: input.prefix };
}

// Names for the choices of a list, and the people there are now
/** @param {{ widget: Comfy.Widget, prefix: string }} list */
function fill({ widget, prefix }) {
    widget.beforeQueued = () => fill({ widget, prefix }); // a graph in the API's format is loaded without a word
    const others = (widget.options.values ?? []).filter((value) => value.startsWith(TASTE) || (prefix && !value.startsWith(prefix)));
    const theirs = choices().map((choice) => prefix + choice);
    const values = prefix ? [...others, ...theirs] : [...theirs, ...others];
    /** @param {string | null} [value] */
    const getOptionLabel = (value) => {
        const choice = value ?? "";
        return choice.startsWith(prefix) ? label(choice.slice(prefix.length), prefix) : choice;
    };
    Object.assign(widget.options, { values, getOptionLabel }); // the same object: Nodes 2.0 holds on to it
    if (typeof widget.value === "string" && widget.value.startsWith(prefix)) {
        const value = prefix + nameless(widget.value.slice(prefix.length));
        if (value !== widget.value) widget.value = value;
    }
}

/** @param {Comfy.Graph | undefined} graph @returns {Generator<Comfy.Node>} */
function* nodes(graph = app.graph) {
    for (const node of graph?.nodes ?? []) {
        yield node;
        if (node.subgraph) yield* nodes(node.subgraph);
    }
}

// Whether a choice is the tab's person
/** @param {unknown} choice @param {string} prefix @param {string} [person] */
const isOf = (choice, prefix, person) => [TAB, person, ...(me === person ? [ME] : [])].some((one) => choice === prefix + one);

// Whether a node of these types in the open graph, that is not off, asks or reads the tab's person
/** @param {string | undefined} person @param {string[]} types */
export const asksOf = (person, types) => [...nodes()].some((node) => {
    if (node.mode !== LiteGraph.ALWAYS || !types.includes(node.constructor.comfyClass ?? "")) return false;
    const list = listOf(node);
    return list && isOf(list.widget.value, list.prefix, person);
});

// The ids of such nodes in a graph as it is queued
/** @param {Comfy.Output} output @param {string} person @param {string[]} types */
export const idsOf = (output, person, types) => Object.keys(output).filter((id) => {
    const { class_type, inputs } = output[id], input = types.includes(class_type) && inputOf(class_type);
    return input && isOf(inputs[input.name], input.prefix, person);
});

function fillAll() {
    for (const node of nodes()) {
        const list = listOf(node);
        if (list) fill(list);
    }
    app.canvas?.setDirty(true, true);
}

async function refresh() {
    counting = null;
    reading = read();
    await reading;
    fillAll();
}

function onChosen() {
    counting = null;
    fillAll();
}

// What was pressed in this window told all that it changed
/** @param {CustomEvent<PPD.Answered>} event */
function onAnswered({ detail: { person, waiting } }) {
    people = people.map((one) => (one.id === person.id ? newer(one, person) : one));
    counting = Promise.resolve({ waiting, name: person.name });
    fillAll();
}

// Here, and not in the widgets: a widget that stands on a subgraph's node is not asked for its value
/** @param {Comfy.Prompt} prompt */
function putTabsPerson({ output }) {
    const person = tabsPerson();
    if (!person) return;
    for (const { class_type, inputs } of Object.values(output)) {
        const input = inputOf(class_type);
        if (input && inputs[input.name] === input.prefix + TAB) inputs[input.name] = input.prefix + person.id;
    }
}

// At once, not in setup: whoever imports this hears the news later
api.addEventListener(NEWS, refresh);
api.addEventListener(ANSWERED, onAnswered);
api.addEventListener(CHOSEN, onChosen);
window.addEventListener("storage", ({ key }) => key === LAST_PERSON && api.dispatchCustomEvent(CHOSEN)); // another window

app.registerExtension({
    name: "ppd.people",
    async init() {
        reading = read();
        await Promise.all([reading, loadWords()]);
    },
    setup() {
        const { graphToPrompt } = app;
        app.graphToPrompt = async (...given) => {
            const made = await graphToPrompt.apply(app, given);
            putTabsPerson(made);
            return made;
        };
    },
    getCustomWidgets: () => ({
        PPD_PERSON(node, name, [, { default: value, tooltip }]) {
            const widget = node.addWidget("combo", name, value, () => {}, { values: [TAB, ME] });
            widget.tooltip = tooltip;
            return { widget };
        },
    }),
    nodeCreated(node) {
        const list = listOf(node);
        if (list) fill(list);
    },
    loadedGraphNode(node) {
        const list = listOf(node);
        if (list) fill(list);
    },
    refreshComboInNodes: refresh,
});
