// The sidebar tab "Taste": questions about pairs of pictures, what has been answered, and what was learned.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { CHANGED, CHOSEN, LAST_PERSON, VERDICTS, ask, element, loadWords, t } from "./common.js";
import { waiting } from "./people.js";
import * as parts from "./taste_parts.js";

const TAB = "ppd-taste";
const PAGE = 24; // answers
const NONE = { picks: [], more: false };

class Panel {
    constructor(root) {
        // The sidebar's own element serves other tabs too: what listens must go when this tab does
        this.root = element("div");
        root.replaceChildren(this.root);
        this.last = Promise.resolve();
        this.behind = new Set(); // people who changed since the last look
        this.unfolded = new Set();
        this.history = NONE;
        this.root.classList.add("ppd-taste");
        this.root.tabIndex = 0;
        this.root.setAttribute("role", "region");
        this.root.setAttribute("aria-label", t("taste"));
        this.root.addEventListener("keydown", (event) => this.onKey(event));
        this.sections = Object.fromEntries(["header", "notice", "question", "learned", "history", "settings"].map(
            (name) => [name, element("div", { className: name })]));
        this.sections.notice.setAttribute("role", "status");
        this.sections.question.textContent = t("loading");
        this.root.replaceChildren(...Object.values(this.sections));
        this.onChanged = ({ detail }) => this.changed(detail.person);
        api.addEventListener(CHANGED, this.onChanged);
        this.run(() => this.open(localStorage.getItem(LAST_PERSON)));
    }

    close() {
        api.removeEventListener(CHANGED, this.onChanged);
    }

    onKey(event) {
        if (event.ctrlKey || event.metaKey || event.altKey || ["SELECT", "INPUT"].includes(event.target.tagName)) return;
        const undo = event.key.toLowerCase() === "u";
        if (!undo && !(event.key in VERDICTS)) return;
        event.preventDefault();
        event.stopPropagation(); // never the graph's
        if (event.repeat) return; // a held key would answer what nobody has seen
        if (undo) this.undo();
        else this.pick(VERDICTS[event.key]);
    }

    // One piece of work after the other, so that none is lost
    run(work, keepNotice = false) {
        this.last = this.last.then(async () => {
            try {
                if (!keepNotice) this.notify("");
                await work();
            } catch (error) {
                this.notify(t("failed", { error: error.message }));
            }
        });
    }

    notify(text) {
        this.sections.notice.textContent = text;
    }

    // Show a person, by default the first, and what to ask next
    async open(person) {
        const { people, shared } = await ask("people");
        Object.assign(this, { people, shared });
        const chosen = people.find(({ id }) => id === person) ?? people[0];
        await this.show(chosen ? await ask(`people/${chosen.id}/question`) : null);
    }

    async show(state) {
        // State and history change together with what is seen: a press meanwhile is about the question seen till then
        const history = state ? await ask(`people/${state.person.id}/history?limit=${this.unfoldedFor(state.person)}`) : NONE;
        Object.assign(this, { state, history });
        if (state) {
            const isNew = localStorage.getItem(LAST_PERSON) !== state.person.id;
            localStorage.setItem(LAST_PERSON, state.person.id);
            if (isNew) api.dispatchCustomEvent(CHOSEN);
            this.people = this.people.map((person) => (person.id === state.person.id ? state.person : person));
        }
        this.render();
    }

    // So many answers as are listed; where all are, with the one that may be new
    unfoldedFor({ id }) {
        const { picks, more } = id === this.state?.person.id ? this.history : NONE;
        return picks.length > PAGE && !more ? picks.length + 1 : Math.max(picks.length, PAGE);
    }

    // For the question that is seen now: a second press on it comes when another is shown, and counts for nothing
    pick(verdict) {
        const { person, question } = this.state ?? {};
        if (!question) return;
        this.run(async () => {
            if (this.state.question?.id !== question.id) return;
            await this.show(await ask(`people/${person.id}/picks`, { candidate: question.id, verdict }));
        });
    }

    undo() {
        const { person } = this.state ?? {};
        if (person) this.run(async () => this.show(await ask(`people/${person.id}/undo`, {})));
    }

    revise(candidate) {
        this.run(async () => {
            await this.show(await ask(`people/${this.state.person.id}/question?candidate=${candidate}`));
            this.root.scrollTop = 0;
        });
    }

    skipRepeats() {
        const { id } = this.state.person;
        this.run(async () => this.show(await ask(`people/${id}/skip_repeats`, {})));
    }

    next() {
        this.run(() => this.open(this.state.person.id));
    }

    more() {
        this.run(async () => {
            if (!this.history.more) return; // a press before has brought the rest
            const before = this.history.picks.at(-1).pick;
            const page = await ask(`people/${this.state.person.id}/history?before=${before}&limit=${PAGE}`);
            this.history = { picks: [...this.history.picks, ...page.picks], more: page.more };
            this.render();
        });
    }

    // Something was filed or answered in a workflow, in another window or here. The question that is being looked at
    // stays, unless it has its answer now
    changed(person) {
        if (!this.root.isConnected) this.close(); // the frontend tells a tab not always that it is gone
        if (!this.root.isConnected) return;
        const isComing = this.behind.size > 0;
        this.behind.add(person);
        if (isComing) return;
        this.run(async () => {
            const concerns = this.behind.has(this.state?.person.id), shown = this.state?.question;
            this.behind.clear();
            if (!this.state) return this.open(person);
            this.people = (await ask("people")).people;
            if (!concerns) {
                this.render();
            } else {
                const { id } = this.state.person;
                const state = shown && (await ask(`people/${id}/question?candidate=${shown.id}`).catch(() => null));
                if (state && state.question.verdict === shown.verdict) await this.show(state);
                else await this.open(id);
            }
        }, true);
    }

    async person(action) {
        const { person } = this.state ?? {};
        const { dialog } = app.extensionManager;
        const named = async (title, path, start) => {
            const name = await dialog.prompt({ title, message: t("name"), defaultValue: start });
            if (name?.trim()) this.run(async () => this.open((await ask(path, { name })).id));
        };
        if (action === "add") await named(t("add"), "people", "");
        if (action === "rename") await named(t("rename"), `people/${person.id}/rename`, person.name);
        if (action === "duplicate") await named(t("duplicate"), `people/${person.id}/duplicate`, `${person.name} 2`);
        if (action === "export") {
            this.run(async () => this.notify(t("exported", await ask(`people/${person.id}/export`, {}))));
        }
        if (action === "delete") {
            const message = t("delete_message", person);
            if (await dialog.confirm({ title: t("delete"), message, type: "delete" })) {
                this.run(async () => {
                    await ask(`people/${person.id}`, undefined, "DELETE");
                    await this.open();
                });
            }
        }
    }

    // Nothing is taken over of a set with a bad pair, unless the rest is asked for
    take(name) {
        const { id } = this.state.person;
        const { dialog } = app.extensionManager;
        this.run(async () => {
            const body = { preference_set: name };
            const taken = await ask(`people/${id}/import`, body).catch(async (error) => {
                const message = t("import_rest", { error: error.message });
                return (await dialog.confirm({ title: t("import"), message })) && ask(`people/${id}/import`, { ...body, skip_bad: true });
            });
            if (!taken) return;
            await this.open(id);
            this.notify(t(taken.left_out.length ? "imported_rest" : "imported", { count: taken.new, left_out: taken.left_out.length }));
        });
    }

    encoder(name) {
        const { id } = this.state.person;
        this.run(async () => this.show(await ask(`people/${id}/encoder`, { encoder: name })));
    }

    askFrom(studies) {
        const { id } = this.state.person;
        this.run(async () => {
            const { new: count } = await ask(`people/${id}/studies`, { studies });
            await this.open(id);
            this.notify(t("questions_filed", { count }));
        });
    }

    fade(picks) {
        const { id } = this.state.person;
        this.run(async () => this.show(await ask(`people/${id}/half_life`, { picks })));
    }

    render() {
        const { header, question, learned, history, settings } = this.sections;
        const focused = this.root.contains(document.activeElement);
        const people = JSON.stringify([this.state?.person.id, this.people.map(({ id, name }) => [id, name])]);
        if (people !== this.listed) header.replaceChildren(...parts.header(this)); // it may have the focus
        this.listed = people;
        const waits = this.state?.person.open > 0;
        const asked = JSON.stringify([this.state?.question, !this.state?.question && [waits, this.state?.reading, this.state?.problem]]);
        if (asked !== this.asked) question.replaceChildren(...parts.question(this)); // a press may have begun on it
        this.asked = asked;
        learned.replaceChildren(...parts.learned(this));
        history.replaceChildren(...parts.history(this));
        if (!settings.contains(document.activeElement)) settings.replaceChildren(...parts.settings(this));
        if (focused && !this.root.contains(document.activeElement)) this.root.focus();
    }
}

// The count of what waits for the tab's person. A string on the registered tab: a function is asked once only
async function showBadge() {
    const open = (await waiting())?.waiting;
    const tab = app.extensionManager.sidebarTab.sidebarTabs.find(({ id }) => id === TAB);
    if (tab) tab.iconBadge = open ? String(open) : null;
}

app.registerExtension({
    name: "ppd.taste",
    async setup() {
        await loadWords();
        document.head.append(element("link", { rel: "stylesheet", href: new URL("taste.css", import.meta.url).href }));
        let panel;
        app.extensionManager.registerSidebarTab({
            id: TAB,
            icon: "pi pi-heart",
            title: t("taste"),
            tooltip: t("tooltip"),
            type: "custom",
            render: async (root) => {
                await loadWords();
                panel?.close();
                panel = new Panel(root);
            },
            destroy: () => panel?.close(),
        });
        api.addEventListener(CHANGED, showBadge);
        api.addEventListener(CHOSEN, showBadge);
        await showBadge();
    },
});
