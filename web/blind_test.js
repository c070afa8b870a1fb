// "Is it really mine?" in the tab Taste: the person's blind tests; and the button of the node that makes them.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { BlindPage } from "./blind_page.js";
import { LAST_PERSON, NEWS, ask, element, t } from "./common.js";
import { SECTIONS, button } from "./taste_parts.js";

/** @import { Panel } from "./taste_panel.js" */

const NODE = "PPD_BlindTest";
/** @type {BlindPage | null} */
let page = null;

// Closes the panel's own page: two over the whole window would share the keys
/** @param {string} test @param {Panel} [panel] */
function open(test, panel) {
    panel?.closePage();
    page?.close();
    page = new BlindPage(test, () => (page = null));
}

// One element for the panel to place, as its other sections are
class Tests {
    /** @param {Panel} panel */
    constructor(panel) {
        this.panel = panel;
        this.person = panel.standing.person;
        this.root = element("div", { className: "blind-tests" });
        new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && this.refresh()).observe(this.root);
    }

    refresh() {
        this.panel.run(async () => {
            /** @type {PPD.BlindTest[]} */
            const tests = await ask(`people/${this.person.id}/tests`);
            const none = element("p", { className: "empty", textContent: t("blind_none") });
            this.root.replaceChildren(...(tests.length ? tests.map((one) => this.entry(one)) : [none]));
        }, true);
    }

    /** @param {PPD.BlindTest} test */
    entry(test) {
        const date = new Date(test.created).toLocaleDateString();
        const told = element("span", { textContent: t(test.result ? "blind_answered" : "blind_waits", { ...test, date }) });
        const verb = test.result ? t("blind_result") : t(test.answered ? "blind_continue" : "blind_begin");
        return element("div", { className: "row blind-test" }, told, button(verb, () => open(test.id, this.panel)),
            button(t("delete"), () => this.remove(test)));
    }

    /** @param {PPD.BlindTest} test */
    async remove({ id }) {
        const message = t("blind_delete");
        if (!(await app.extensionManager.dialog.confirm({ title: t("delete"), message, type: "delete" }))) return;
        this.panel.run(async () => {
            await ask(`tests/${id}`, undefined, "DELETE");
            this.refresh();
        });
    }
}

/** @type {Tests | null} */
let list = null; // it stays while the panel around it is made anew

/** @param {Panel} panel */
function tests(panel) {
    if (!list || list.person.id !== panel.standing.person.id) list = new Tests(panel);
    return list.root;
}

api.addEventListener(NEWS, ({ detail }) => list?.root.isConnected && list.person.id === detail.person && list.refresh());

SECTIONS.push({ name: "blind", title: () => t("blind_title"), make: tests });

// The test that the node has filed, or else the newest of the tab's person that waits, or else the newest
/** @param {Comfy.Node} node */
async function openFrom(node) {
    const filed = app.nodeOutputs?.[node.id]?.ppd_blind_test?.[0];
    const person = filed?.person ?? localStorage.getItem(LAST_PERSON);
    /** @type {PPD.BlindTest[]} */
    const tests = person ? await ask(`people/${person}/tests`).catch(() => []) : [];
    const test = tests.find(({ id }) => id === filed?.id) ?? tests.find(({ result }) => !result) ?? tests[0];
    if (test) open(test.id);
    else app.extensionManager.toast.add({ severity: "info", summary: t("blind_title"), detail: t("blind_none"), life: 6000 });
}

app.registerExtension({
    name: "ppd.blind",
    nodeCreated(node) {
        if (node.constructor.comfyClass !== NODE) return;
        const widget = node.addWidget("button", "ppd_blind", null, () => openFrom(node), { serialize: false });
        widget.label = t("blind_open");
        widget.serialize = false; // not in the saved workflow
    },
});
