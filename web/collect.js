// The node Collect Preferences shows the newest question of its run, answered by mouse or by key.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ANSWERED, CHOSEN, NEWS, Requests, VERDICTS, ask, element, loadWords, pictureURL, t } from "./common.js";
import { isSeen, takeKeys } from "./keys.js";
import { nameOf, waiting } from "./people.js";

const ASKED = "ppd.question"; // the server's message that a node asks while it still runs
const [WIDTH, HEIGHT] = [380, 260]; // the widget's least size
const MARGIN = 10; // that the classic renderer leaves around a DOM widget
const STYLE = `
.ppd-collect { display: flex; flex-direction: column; gap: 6px; box-sizing: border-box; min-height: ${HEIGHT}px;
  padding: 2px; font-size: 12px; color: var(--input-text); outline: none; }
.ppd-collect:focus-visible, .ppd-collect button:focus-visible { outline: 2px solid var(--p-primary-color, #4a90d9); }
.ppd-collect:focus-visible { border-radius: 6px; }
.ppd-collect p { margin: 0; }
.ppd-collect .empty { margin: auto; max-width: 32ch; text-align: center; color: var(--descrip-text); }
.ppd-collect .note { flex: none; color: var(--p-orange-400, #e90); }
.ppd-collect .prompt { flex: none; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; color: var(--descrip-text); }
.ppd-collect .pair { flex: 1; min-height: 0; display: grid; grid-template-columns: 1fr 1fr; gap: 6px; }
.ppd-collect button { font: inherit; color: var(--input-text); background: var(--comfy-input-bg); border: 1px solid var(--border-color);
  border-radius: 6px; padding: 4px 10px; cursor: pointer; }
.ppd-collect button:hover:enabled { border-color: var(--p-primary-color, #4a90d9); }
.ppd-collect .side { container-type: size; min-width: 0; min-height: 0; padding: 3px; display: grid; place-items: center; }
.ppd-collect .picture { position: relative; padding: 0; border: none; border-radius: 0;
  width: min(100cqw, 100cqh * var(--ratio, 1)); aspect-ratio: var(--ratio, 1); }
.ppd-collect .picture img { display: block; width: 100%; height: 100%; }
.ppd-collect .picture:hover:enabled { outline: 1px solid var(--p-primary-color, #4a90d9); }
.ppd-collect .picture:disabled { cursor: default; }
.ppd-collect .picture[aria-pressed=true] { outline: 3px solid var(--p-primary-color, #4a90d9); }
.ppd-collect .picture[aria-pressed=true]::after { content: "✓"; position: absolute; right: 4px; bottom: 4px; padding: 0 5px;
  border-radius: 8px; color: #fff; background: var(--p-primary-color, #4a90d9); }
.ppd-collect .row { flex: none; display: flex; align-items: center; gap: 6px; }
.ppd-collect .row p { flex: 1; min-width: 0; }
.ppd-collect .row button { flex: none; }
.ppd-collect .choices button { flex: 1; }`;

/** @typedef {PPD.Pair & { latest: boolean, name: string }} Shown a question, whether it has the latest answer, and whose it is */

// What one node asks. The server tells how each question stands; here is only which of them is shown.
class Questions {
    constructor() {
        /** @type {PPD.Asked[]} */
        this.asked = []; // the newest first
        /** @type {string[]} */
        this.notes = []; // of the run that asked
        /** @type {Shown | null} */
        this.question = null; // that is shown, as it was read
        this.at = 0; // which of them is shown
        this.revision = 0; // of its person, as of which the question is shown
        this.requests = new Requests();
        /** @type {PPD.Asked | null | undefined} */
        this.sending = null; // whose answer is on its way
        this.root = element("div", { className: "ppd-collect", tabIndex: 0, role: "group" });
        this.byMouse = true;
        takeKeys(this);
        this.root.addEventListener("wheel", (event) => this.onWheel(event));
        this.draw();
        this.refresh();
    }

    get current() {
        return this.asked.at(this.at);
    }

    // A node that waited is heard of twice, and one taken from the cache again and again: that is nothing new
    /** @param {PPD.Asked[]} asked @param {string[]} [notes] */
    show(asked, notes) {
        const newest = [...asked].reverse();
        if (notes) this.notes = notes;
        if (JSON.stringify(newest) !== JSON.stringify(this.asked)) Object.assign(this, { asked: newest, at: 0, question: null, revision: 0 });
        return this.refresh();
    }

    // Read anew how the shown question stands: it may have been answered in the tab, or in another window
    async refresh() {
        const { current } = this;
        if (!current) return this.count();
        let question, revision, error;
        try {
            ({ revision, ...question } = await ask(`people/${current.person}/questions/${current.id}`));
            question.name = await nameOf(current.person);
        } catch (failure) {
            error = failure;
        }
        if (current !== this.current || revision < this.revision) return;
        if (revision > this.revision) this.requests.clear();
        const same = JSON.stringify(question) === JSON.stringify(this.question);
        Object.assign(this, { question, revision: revision ?? 0 });
        if (error || !same) this.draw(error?.message);
    }

    // What was pressed in the tab told how the shown question stands now
    /** @param {PPD.Answered} answered */
    answered({ person, changed, latest }) {
        const { current, question } = this;
        if (!current) return this.count();
        if (current.person !== person.id || person.revision < this.revision) return;
        if (!question) return this.refresh(); // it is being read just now, perhaps from before
        const { verdict } = changed.find(({ id }) => id === current.id) ?? question;
        this.revision = person.revision;
        if (verdict === question.verdict && (latest === current.id) === question.latest) return;
        this.question = { ...question, verdict, latest: latest === current.id };
        this.draw();
    }

    // Before a run there is no question to show, but how many wait in the tab
    async count() {
        const answer = waiting();
        this.counting = answer;
        const found = await answer;
        if (answer !== this.counting || this.current) return;
        this.open = found;
        this.draw();
    }

    get focused() {
        const { activeElement } = document;
        return this.root.contains(activeElement) ? activeElement : null;
    }

    // The graph would delete or move the node
    /** @param {KeyboardEvent} event */
    keeps({ ctrlKey, metaKey, altKey }) {
        return this.focused && !ctrlKey && !metaKey && !altKey;
    }

    /** @param {KeyboardEvent} event */
    actionOf({ key }) {
        const { focused, question } = this, pair = this.root.querySelector(".pair");
        if (!pair || !isSeen(pair)) return null;
        if (key in VERDICTS) return () => this.pick(VERDICTS[key]);
        if (key.toLowerCase() === "u" && question?.latest) return () => this.undo();
        const onOther = focused?.tagName === "BUTTON" && focused.className !== "next"; // which Enter presses
        return key === "Enter" && !onOther && question?.verdict && this.left ? () => this.next() : null;
    }

    get left() {
        return this.asked.length - this.at - 1;
    }

    // The classic renderer lays the widget over the canvas, which then hears no wheel; Nodes 2.0 passes it on by itself
    /** @param {WheelEvent} event */
    onWheel(event) {
        if (app.extensionManager.setting.get("Comfy.VueNodes.Enabled")) return;
        event.preventDefault();
        app.canvas.processMouseWheel(event);
    }

    /** @param {PPD.Verdict} verdict */
    pick(verdict) {
        const { current, question } = this;
        if (current && question && !question.verdict) this.send(`people/${current.person}/picks`, { candidate: current.id, verdict });
    }

    undo() {
        const { current, question } = this;
        if (current && question?.latest) this.send(`people/${current.person}/undo`, {});
    }

    next() {
        Object.assign(this, { at: this.at + 1, question: null, revision: 0 });
        return this.refresh();
    }

    // One answer to a question at a time: a second press would answer what is not shown yet
    /** @param {string} path @param {object} body */
    async send(path, body) {
        const { current } = this;
        if (this.sending === current) return;
        this.sending = current;
        try {
            await ask(path, body, "POST", this.requests.of(path, body));
            this.requests.clear();
            await this.refresh();
        } catch (error) {
            this.draw(t("failed", { error: error.message }));
        } finally {
            if (this.sending === current) this.sending = null;
        }
    }

    /** @param {string} [complaint] */
    async draw(complaint) {
        await loadWords();
        const { question } = this;
        this.root.ariaLabel = t("collect_label");
        const parts = [];
        if (question) {
            parts.push(...this.notes.map((note) => element("p", { className: "note", textContent: note })));
            parts.push(this.pair(question));
            const told = [t("asked_of", question), question.prompt].filter(Boolean).join(" · ");
            parts.push(element("p", { className: "prompt", textContent: told, title: told }));
            parts.push(question.verdict ? this.answer(question) : this.choices());
        } else if (!complaint) {
            const { open } = this;
            const text = open?.waiting ? `${t("collect_empty")} ${t("collect_waiting", open)}` : t("collect_empty");
            parts.push(element("p", { className: "empty", textContent: text }));
        }
        if (complaint) parts.push(element("p", { role: "alert", textContent: complaint }));
        const focused = this.root.contains(document.activeElement);
        this.root.replaceChildren(...parts);
        const next = this.root.querySelector(".next");
        if (focused) (next instanceof HTMLElement ? next : this.root).focus({ preventScroll: true });
    }

    /** @param {Shown} question */
    pair({ first, second, verdict }) {
        const digests = { first, second };
        const sides = /** @type {const} */ (["first", "second"]).map((side) => {
            const image = element("img", { alt: "", draggable: false });
            const title = t(side === "first" ? "left_is_better" : "right_is_better");
            const button = element("button", { className: "picture", ariaLabel: title, title, disabled: !!verdict }, image);
            if (verdict) button.ariaPressed = String(verdict === side);
            button.addEventListener("click", () => this.pick(side));
            // The button is as large as the picture: the bars beside it pick nothing
            image.addEventListener("load", () => button.style.setProperty("--ratio", String(image.naturalWidth / image.naturalHeight)));
            image.src = pictureURL(digests[side]);
            return element("div", { className: "side" }, button);
        });
        return element("div", { className: "pair" }, ...sides);
    }

    choices() {
        const buttons = /** @type {const} */ (["tie", "skip"]).map((verdict) => this.button(t(verdict), () => this.pick(verdict)));
        return element("div", { className: "row choices" }, ...buttons);
    }

    /** @param {Shown} question */
    answer({ verdict, latest }) {
        const row = element("div", { className: "row" },
            element("p", { role: "status", textContent: t(`said_${verdict}`) }));
        if (latest) row.append(this.button(t("undo"), () => this.undo()));
        const { left } = this;
        if (left) row.append(this.button(t("collect_next", { left }), () => this.next(), "next"));
        return row;
    }

    /** @param {string} textContent @param {() => void} onClick @param {string} [className] */
    button(textContent, onClick, className = "") {
        const made = element("button", { textContent, className });
        made.addEventListener("click", onClick);
        return made;
    }
}

/** @type {WeakMap<Comfy.Node, Questions>} */
const shown = new WeakMap(); // a node's questions

/** @param {Comfy.Graph} [graph] @returns {Generator<[Comfy.Node, Questions]>} */
function* collectors(graph = app.graph) {
    for (const node of graph?.nodes ?? []) {
        const questions = shown.get(node);
        if (questions) yield [node, questions];
        if (node.subgraph) yield* collectors(node.subgraph);
    }
}

// The node of an id as the server has it: inside a subgraph, the subgraph's node comes before it, as in "5:12"
/** @param {string} id */
function nodeOf(id) {
    /** @type {{ node?: Comfy.Node | null, subgraph?: Comfy.Graph }} */
    let found = { subgraph: app.graph };
    for (const part of String(id).split(":")) {
        const node = found.subgraph?.getNodeById(part);
        found = { node, subgraph: node?.subgraph };
    }
    return found.node;
}

/** @param {Comfy.Node | null | undefined} node @param {Comfy.NodeOutput} [output] */
function show(node, { ppd_question: asked, ppd_notes: notes } = {}) {
    if (node && asked?.length) shown.get(node)?.show(asked, notes);
}

app.registerExtension({
    name: "ppd.collect",
    setup() {
        document.head.append(element("style", { textContent: STYLE }));
        api.addEventListener(ASKED, ({ detail }) => show(nodeOf(detail.node), { ppd_question: detail.questions }));
        api.addEventListener("executed", ({ detail }) => show(nodeOf(detail.display_node ?? detail.node), detail.output ?? {}));
        api.addEventListener(CHOSEN, () => {
            for (const [, questions] of collectors()) if (!questions.current) questions.count();
        });
        api.addEventListener(ANSWERED, ({ detail }) => {
            for (const [, questions] of collectors()) questions.answered(detail);
        });
        api.addEventListener(NEWS, ({ detail }) => {
            for (const [, questions] of collectors()) {
                // What is on its way is shown when it has its answer, not before: then the next press counts
                const { current } = questions;
                if ((!current || current.person === detail.person) && !questions.sending) questions.refresh();
            }
        });
    },
    nodeCreated(node) {
        if (node.constructor.comfyClass !== "PPD_PreferenceCollector") return;
        const questions = new Questions();
        shown.set(node, questions);
        const widget = node.addDOMWidget("ppd_question", "ppd_question", questions.root, {
            serialize: false, // not in the graph that runs
            hideOnZoom: false, // the pictures are what the node is for, however small
            hideInPanel: true, // a second place would take the element away from the node
            selectOn: [], // picking must not change which node lies on top, which is saved
            getMinHeight: () => HEIGHT + 2 * MARGIN,
        });
        widget.serialize = false; // not in the saved workflow
        const [width, height] = node.computeSize();
        node.setSize([Math.max(width, WIDTH), height]);
    },
    // A workflow comes back from another tab or from the history with what its nodes had put out
    onNodeOutputsUpdated(outputs) {
        for (const [node] of collectors()) {
            const { graph } = node;
            show(node, outputs[graph === app.graph ? String(node.id) : `${graph?.id}:${node.id}`]);
        }
    },
});
