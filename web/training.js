// The node Train User Adapter shows its training while it goes on: how far it is, its pictures, stop and go on.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ask, element, loadWords, t } from "./common.js";
import { button } from "./taste_parts.js";

const NODE = "PPD_TrainUserAdapter";
const OFTEN = 2000; // milliseconds between two looks while it trains
const [WIDTH, HEIGHT] = [400, 190]; // the widget's least size
const MARGIN = 10; // that the classic renderer leaves around a DOM widget
const STYLE = `
.ppd-training { display: flex; flex-direction: column; gap: 6px; box-sizing: border-box; min-height: ${HEIGHT}px; padding: 4px;
  font-size: 12px; color: var(--input-text); }
.ppd-training p { margin: 0; flex: none; }
.ppd-training .told { max-height: 9em; overflow-y: auto; white-space: pre-line; overflow-wrap: anywhere; user-select: text; }
.ppd-training .figures { color: var(--descrip-text); }
.ppd-training .bar { flex: none; height: 8px; border-radius: 4px; overflow: hidden; background: var(--comfy-input-bg); }
.ppd-training .bar span { display: block; height: 100%; background: var(--p-primary-color, #4a90d9); }
.ppd-training .sheet { flex: 1; min-height: 0; }
.ppd-training .sheet img { width: 100%; height: 100%; object-fit: contain; object-position: top; }
.ppd-training .row { flex: none; display: flex; gap: 6px; }
.ppd-training button { flex: 1; font: inherit; color: var(--input-text); background: var(--comfy-input-bg);
  border: 1px solid var(--border-color); border-radius: 6px; padding: 4px 10px; cursor: pointer; }
.ppd-training button:hover:enabled { border-color: var(--p-primary-color, #4a90d9); }
.ppd-training button:focus-visible { outline: 2px solid var(--p-primary-color, #4a90d9); }`;

/** @param {number} share */
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

/** @param {number} seconds */
function duration(seconds) {
    if (seconds < 90) return t("seconds", { count: Math.round(seconds) });
    return seconds < 5400 ? t("minutes", { count: Math.round(seconds / 60) }) : t("hours", { count: (seconds / 3600).toFixed(1) });
}

/** @type {PPD.Training} */
const NEW = { state: "new", is_active: false, is_half_done: false, is_dry_run: false, others: null, message: "", step: 0, of: 0,
    seconds_left: null, figures: {}, measured: 0, sheet: null, page: false, worth: null, costs: null };

/** @param {string} name */
const pathOf = (name) => `trainings/${encodeURIComponent(name)}`;

// What one node shows: the training of the name in its widget, which the server knows, whoever started it and when
class View {
    /** @param {Comfy.Node} node */
    constructor(node) {
        this.node = node;
        /** @type {PPD.Training | null} */
        this.state = null;
        this.known = ""; // whose state it is
        this.complaint = "";
        this.drawn = "";
        this.timer = 0; // of the next look
        this.root = element("div", { className: "ppd-training", role: "group" });
        this.root.addEventListener("wheel", (event) => this.onWheel(event));
        this.refresh();
    }

    get name() {
        return String(this.node.widgets?.find(({ name }) => name === "name")?.value ?? "").trim();
    }

    // Looks anew, and again as long as it trains and the node is there
    async refresh() {
        clearTimeout(this.timer);
        const { name } = this;
        const look = (this.look = {});
        try {
            /** @type {PPD.Training | null} */
            const state = name ? await ask(pathOf(name)) : null;
            if (look !== this.look) return;
            this.state = state;
            this.known = name;
            this.complaint = "";
        } catch (error) {
            if (look !== this.look) return;
            if (name !== this.known) this.state = null;
            this.complaint = error.message;
        }
        await this.draw();
        const again = name !== this.name || this.state?.is_active || this.state?.others;
        if (again && this.node.graph) this.timer = setTimeout(() => this.refresh(), OFTEN);
    }

    async beginAnew() {
        const { known } = this;
        const message = t("training_anew_message", { name: known });
        if (await app.extensionManager.dialog.confirm({ title: t("training_anew"), message })) await this.press("anew", known);
    }

    // About the training that is shown, which may not be the one of the name any more
    /** @param {"stop" | "go-on" | "anew"} action @param {string} name */
    async press(action, name = this.known) {
        try {
            await ask(`${pathOf(name)}/${action}`, {});
            await this.refresh();
        } catch (error) {
            this.complaint = error.message;
            await this.draw();
        }
    }

    // The classic renderer lays the widget over the canvas, which then hears no wheel; Nodes 2.0 passes it on by itself
    /** @param {WheelEvent} event */
    onWheel(event) {
        if (app.extensionManager.setting.get("Comfy.VueNodes.Enabled")) return;
        event.preventDefault();
        app.canvas.processMouseWheel(event);
    }

    // Only where something has changed, so that nothing flickers and what is selected stays so
    async draw() {
        await loadWords();
        const key = JSON.stringify([this.name, this.state, this.complaint, t("training_label")]);
        if (key === this.drawn) return;
        this.drawn = key;
        this.root.ariaLabel = t("training_label");
        const { activeElement } = document, focused = this.root.contains(activeElement) && activeElement?.className;
        this.root.replaceChildren(...this.parts(this.state ?? NEW));
        const button = focused && this.root.querySelector(`button.${focused}`);
        if (button instanceof HTMLElement) button.focus({ preventScroll: true });
    }

    /** @param {PPD.Training} state */
    parts(state) {
        /** @type {HTMLElement[]} */
        const parts = [element("p", { className: "told", role: "status", textContent: this.told(state) })];
        if (state.step && !state.is_dry_run && state.state !== "finished") parts.push(this.bar(state));
        const figures = this.figures(state);
        if (figures) parts.push(element("p", { className: "figures", textContent: figures }));
        const others = state.others && state.state !== "finished" ? t("training_others", { name: state.others }) : "";
        if (others) parts.push(element("p", { className: "figures", textContent: others }));
        if (state.sheet) parts.push(this.sheet(state));
        if (this.complaint) parts.push(element("p", { role: "alert", textContent: t("failed", { error: this.complaint }) }));
        const buttons = this.buttons(state);
        if (buttons.length) parts.push(element("div", { className: "row" }, ...buttons));
        return parts;
    }

    /** @param {PPD.Training} state */
    told(state) {
        const { worth, costs } = state;
        if (costs) return t("training_costs", { time: duration(costs.seconds), memory: costs.gigabytes.toFixed(1) });
        if (worth) {
            const { people, kind, own, anothers, personal } = worth;
            const told = { people, own: percent(own), anothers: percent(anothers), personal: percent(personal) };
            return t(kind === "real" ? "training_worth_real" : "training_worth_simulated", told);
        }
        if (state.is_dry_run && state.is_active) return t("training_trying");
        return t(`training_is_${state.state}`, { ...state, measured: percent(state.measured) });
    }

    /** @param {PPD.Training} state */
    bar({ step, of }) {
        const filled = element("span");
        filled.style.width = `${(100 * step) / of}%`;
        return element("div", { className: "bar", role: "progressbar", ariaValueNow: Math.round((100 * step) / of) }, filled);
    }

    /** @param {PPD.Training} state */
    figures({ state, is_dry_run, step, of, seconds_left, figures: { accuracy, held_out } }) {
        if (!step || is_dry_run || state === "finished") return "";
        const told = [t("training_steps", { step, of })];
        if (state === "training" && seconds_left !== null) told.push(t("training_left", { time: duration(seconds_left) }));
        if (accuracy !== undefined) told.push(t("training_accuracy", { share: percent(accuracy) }));
        if (held_out !== undefined) told.push(t("training_personal", { share: percent(held_out) }));
        return told.join(" · ");
    }

    /** @param {PPD.Training} state */
    sheet({ sheet }) {
        const url = api.apiURL(`/ppd/${pathOf(this.known)}/sheet.png?at=${sheet}`);
        const image = element("img", { src: url, alt: t("training_sheet"), title: t("training_sheet"), draggable: false });
        return element("a", { className: "sheet", href: url, target: "_blank" }, image);
    }

    /** @param {PPD.Training} state */
    buttons({ state, is_active, is_half_done, page }) {
        /** @type {HTMLElement[]} */
        const made = [];
        /** @param {string} text @param {string} className @param {() => void} onClick */
        const add = (text, className, onClick) => made.push(button(text, onClick, { className }));
        if (is_active && state !== "stopping") add(t("training_stop"), "stop", () => this.press("stop"));
        if (state === "stopped" || state === "died") add(t("training_go_on"), "go-on", () => this.press("go-on"));
        if (state === "failed") add(t("training_again"), "go-on", () => this.press("go-on"));
        if (is_half_done && !is_active) add(t("training_anew"), "anew", () => this.beginAnew());
        const report = api.apiURL(`/ppd/${pathOf(this.known)}/report.html`);
        if (page) add(t("training_open"), "open", () => window.open(report, "_blank"));
        return made;
    }
}

/** @type {WeakMap<Comfy.Node, View>} */
const views = new WeakMap(); // a node's view

/** @param {Comfy.Graph} [graph] @returns {Generator<View>} */
function* trainers(graph = app.graph) {
    for (const node of graph?.nodes ?? []) {
        const view = views.get(node);
        if (view) yield view;
        if (node.subgraph) yield* trainers(node.subgraph);
    }
}

function refreshAll() {
    for (const view of trainers()) view.refresh();
}

// A choice of another name shows that training
/** @param {View} view */
function follow(view) {
    const widget = view.node.widgets?.find(({ name }) => name === "name");
    if (!widget) return;
    const { callback } = widget;
    widget.callback = function (...given) {
        view.refresh();
        return callback?.apply(this, given);
    };
}

app.registerExtension({
    name: "ppd.training",
    setup() {
        document.head.append(element("style", { textContent: STYLE }));
        for (const name of /** @type {const} */ (["executed", "execution_error", "reconnected"])) api.addEventListener(name, refreshAll);
        document.addEventListener("visibilitychange", () => document.hidden || refreshAll());
    },
    nodeCreated(node) {
        if (node.constructor.comfyClass !== NODE) return;
        const view = new View(node);
        views.set(node, view);
        follow(view);
        const widget = node.addDOMWidget("ppd_training", "ppd_training", view.root, {
            serialize: false, // not in the graph that runs
            hideInPanel: true, // a second place would take the element away from the node
            selectOn: [], // a press must not change which node lies on top, which is saved
            getMinHeight: () => HEIGHT + 2 * MARGIN,
        });
        widget.serialize = false; // not in the saved workflow
        const [width, height] = node.computeSize();
        node.setSize([Math.max(width, WIDTH), height]);
    },
    loadedGraphNode(node) {
        views.get(node)?.refresh();
    },
});
