// The state of the Taste panel and what can be done with it: whose answers, what is asked, what has been answered.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { BeforeAfter } from "./before_after.js";
import { CHOSEN, LAST_PERSON, NEWS, Requests, ask, press, t, tell } from "./common.js";
import { everybody } from "./people.js";
import { paint } from "./taste_painting.js";
import { Pictures } from "./taste_pictures.js";
import { View } from "./taste_view.js";

const PAGE = 24; // answers
/** @type {PPD.History} */
const NONE = { picks: [], more: false };
const OF = "ppd.of"; // where the browser keeps how many pictures a question has
const PAINTS = "ppd.paints"; // and whether a pick paints the next pair
const ME = "me"; // who is made where there is nobody

/** @param {PPD.Pair | PPD.Grid | null} question */
const keyOf = (question) => question && (question.id ?? question.pictures.join());

export class Panel {
    constructor() {
        /** @type {View[]} */
        this.views = [];
        /** @type {PPD.Person[]} */
        this.people = [];
        this.shared = false; // by all of ComfyUI's users
        /** @type {PPD.Standing | null} */
        this.state = null;
        this.history = NONE;
        this.isStale = false;
        this.pictures = new Pictures();
        this.requests = new Requests();
        this.compared = new BeforeAfter(this);
        this.last = Promise.resolve();
        /** @type {Set<string>} */
        this.behind = new Set(); // people who changed since the last look
        /** @type {Set<string>} */
        this.unfolded = new Set();
        this.of = Number(localStorage.getItem(OF)) || 2;
        this.paints = localStorage.getItem(PAINTS) === "true";
        api.addEventListener(NEWS, ({ detail }) => this.changed(detail.person));
    }

    // The view that is in front
    get view() {
        return this.views.at(-1);
    }

    // Where somebody is chosen, without whom nothing can be pressed
    get standing() {
        return /** @type {PPD.Standing} */ (this.state);
    }

    // In the sidebar's tab, whose element serves other tabs too
    /** @param {HTMLElement} root */
    openTab(root) {
        this.closeTab();
        const tab = new View(this, false);
        this.views.unshift(tab);
        root.replaceChildren(tab.root);
        this.refresh();
    }

    closeTab() {
        this.views = this.views.filter(({ isPage }) => isPage);
    }

    // Over the whole window
    openPage() {
        if (this.view?.isPage) return;
        const page = new View(this, true);
        this.before = document.activeElement;
        this.views.push(page);
        document.body.append(page.root);
        page.root.focus();
        if (this.state) this.render();
        this.refresh();
    }

    closePage() {
        const page = this.view;
        if (!page?.isPage) return;
        this.views.pop();
        page.root.remove();
        if (this.before instanceof HTMLElement) this.before.focus({ preventScroll: true });
        if (!this.view) return;
        this.view.asked = null; // the page had its pictures
        this.render();
    }

    refresh() {
        this.run(() => this.open(this.state?.person.id ?? localStorage.getItem(LAST_PERSON)));
    }

    // One piece of work after the other, so that none is lost
    /** @param {() => unknown} work @param {boolean} [keepNotice] */
    run(work, keepNotice = false) {
        this.last = this.last.then(async () => {
            try {
                if (!keepNotice) this.notify("");
                await work();
            } catch (error) {
                this.isStale = true; // what failed may have been done all the same
                this.notify(t("failed", { error: error.message }));
            }
        });
    }

    /** @param {string} text */
    notify(text) {
        for (const { notice } of this.views) notice.textContent = text;
    }

    // Show a person, by default the first, and what to ask next
    /** @param {string | null} [person] */
    async open(person) {
        let found = await ask("people");
        if (!found.people.length) {
            await ask("people", { name: ME }).catch(() => {}); // another window may have been faster
            found = await ask("people");
        }
        this.people = found.people;
        this.shared = found.shared;
        const { id } = this.people.find((one) => one.id === person) ?? this.people[0];
        await this.look(id);
    }

    // Read how a person stands, by default with what to ask next
    /** @param {string} id @param {number} [candidate] */
    async look(id, candidate) {
        const query = candidate ? `candidate=${candidate}` : `of=${this.of}`;
        const state = await ask(`people/${id}/question?${query}`);
        this.show({ ...state, history: await this.answersOf(id) });
    }

    /** @param {string} id @returns {Promise<PPD.History>} */
    async answersOf(id) {
        const history = await ask(`people/${id}/history?limit=${this.unfoldedFor(id)}`);
        this.isStale = false;
        return history;
    }

    // State and history change together with what is seen: a press meanwhile is about the question seen till then
    /** @param {PPD.Standing & { history?: PPD.History }} now */
    show({ changed = [], history = this.historyWith(changed), ...state }) {
        if (state.person.revision !== this.state?.person.revision) this.requests.clear();
        this.state = state;
        this.history = history;
        const { person, question, upcoming } = state;
        const isNew = localStorage.getItem(LAST_PERSON) !== person.id;
        localStorage.setItem(LAST_PERSON, person.id);
        this.people = this.people.map((one) => (one.id === person.id ? person : one));
        this.render();
        this.pictures.expect([...(question?.pictures ?? []), ...upcoming]);
        if (isNew) api.dispatchCustomEvent(CHOSEN);
    }

    // The answers with those that have changed, the latest first
    /** @param {PPD.Pair[]} changed @returns {PPD.History} */
    historyWith(changed) {
        const { picks, more } = this.history, ids = new Set(changed.map(({ id }) => id));
        const oldest = (more && picks.at(-1)?.pick) || 0;
        const answered = /** @type {PPD.Pick[]} */ (changed.filter(({ pick }) => pick && pick > oldest));
        const now = [...answered, ...picks.filter(({ id }) => !ids.has(id))];
        return { picks: now.sort((a, b) => b.pick - a.pick), more };
    }

    // So many answers as are listed; where all are, with the one that may be new
    /** @param {string} id */
    unfoldedFor(id) {
        const { picks, more } = id === this.state?.person.id ? this.history : NONE;
        return picks.length > PAGE && !more ? picks.length + 1 : Math.max(picks.length, PAGE);
    }

    // For the question that is seen now: a second press on it comes when another is shown, and counts for nothing
    /** @param {string} path @param {object} body @param {boolean} isLearned */
    answer(path, body, isLearned) {
        const { person, question } = this.standing;
        this.run(async () => {
            if (keyOf(this.standing.question) !== keyOf(question) || this.standing.person.id !== person.id) return;
            await this.press(path, body);
            if (this.paints && isLearned) await paint(person.id);
        });
    }

    /** @param {string} path @param {object} body */
    async press(path, body) {
        const { id } = this.standing.person;
        const state = await press(`people/${id}/${path}`, { ...body, of: this.of }, this.requests.of(id, path, body));
        this.show(this.isStale ? { ...state, history: await this.answersOf(id) } : state);
        this.requests.clear();
        tell({ ...state, latest: this.history.picks[0]?.id });
    }

    /** @param {PPD.Verdict} verdict */
    pick(verdict) {
        const { question } = this.state ?? {};
        if (!question?.id) return;
        const isBroken = [question.first, question.second].some((digest) => this.pictures.broken.has(digest));
        if (isBroken && verdict !== "skip") this.notify(t("only_skip"));
        else this.answer("picks", { candidate: question.id, verdict }, verdict !== "skip");
    }

    // The best picture of a grid; null for a skip
    /** @param {string | null | undefined} best */
    choose(best) {
        const { pictures, prompt } = this.state?.question ?? {};
        if (pictures && best !== undefined && !this.pictures.broken.has(best ?? "")) this.answer("choices", { prompt, pictures, best }, best !== null);
    }

    get canUndo() {
        return Boolean(this.state?.person.picks || this.history.picks.length);
    }

    undo() {
        if (this.state) this.run(() => this.press("undo", {}));
    }

    skipLeftOver() {
        this.run(() => this.press("skip_left_over", {}));
    }

    /** @param {number} candidate */
    revise(candidate) {
        this.run(async () => {
            await this.look(this.standing.person.id, candidate);
            this.view?.showQuestion();
        });
    }

    next() {
        this.run(() => this.open(this.standing.person.id));
    }

    /** @param {number} of */
    setOf(of) {
        this.of = of;
        localStorage.setItem(OF, String(of));
        this.next();
    }

    /** @param {boolean} paints */
    setPaints(paints) {
        this.paints = paints;
        localStorage.setItem(PAINTS, String(paints));
        this.render();
    }

    more() {
        this.run(async () => {
            if (!this.history.more) return; // a press before has brought the rest
            const before = this.history.picks.at(-1)?.pick;
            const page = await ask(`people/${this.standing.person.id}/history?before=${before}&limit=${PAGE}`);
            this.history = { picks: [...this.history.picks, ...page.picks], more: page.more };
            this.render();
        });
    }

    // Something was filed or answered in a workflow or in another window. The question that is being looked at stays,
    // unless it has its answer now
    /** @param {string} person */
    changed(person) {
        this.views = this.views.filter(({ root }) => root.isConnected); // the frontend tells a tab not always that it is gone
        if (!this.view) return; // who opens one looks anew
        const isComing = this.behind.size > 0;
        this.behind.add(person);
        if (isComing) return;
        this.run(async () => {
            const concerns = this.behind.has(this.state?.person.id ?? ""), shown = this.state?.question;
            this.behind.clear();
            if (!this.state) return this.open(person);
            this.people = await everybody();
            const { id } = this.state.person;
            if (!concerns) return this.render();
            if (!shown) return this.look(id);
            const query = shown.id ? `candidate=${shown.id}` : `of=${this.of}`;
            const state = await ask(`people/${id}/question?${query}`).catch(() => null);
            const isSame = shown.id ? state?.question.verdict === shown.verdict : state?.person.picks === this.state.person.picks;
            if (!isSame) return this.look(id);
            this.show({ ...state, question: shown, history: await this.answersOf(id) });
        }, true);
    }

    /** @param {string} action */
    async person(action) {
        const { person } = this.standing;
        const { dialog } = app.extensionManager;
        /** @param {string} title @param {string} path @param {string} start */
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
    /** @param {string} name */
    take(name) {
        const { id } = this.standing.person;
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

    // A setting of the person, after which they may stand otherwise
    /** @param {string} path @param {object} body */
    set(path, body) {
        const { id } = this.standing.person;
        this.run(async () => this.show(await press(`people/${id}/${path}`, body)));
    }

    /** @param {string} studies */
    askFrom(studies) {
        const { id } = this.standing.person;
        this.run(async () => {
            const { new: count } = await ask(`people/${id}/studies`, { studies });
            await this.open(id);
            this.notify(t("questions_filed", { count }));
        });
    }

    render() {
        this.view?.render();
    }
}
