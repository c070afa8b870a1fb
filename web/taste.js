// The sidebar tab "Taste": the newest question of a person, A beside B, answered by mouse or by key.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const KEYS = { ArrowLeft: "first", ArrowRight: "second", ArrowUp: "tie", ArrowDown: "skip" };
const STYLE = `
.ppd-taste { display: flex; flex-direction: column; gap: 8px; padding: 12px; height: 100%; overflow: auto; outline: none; }
.ppd-taste .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 8px; }
.ppd-taste button, .ppd-taste select { color: var(--input-text); background: var(--comfy-input-bg);
  border: 1px solid var(--border-color); border-radius: 6px; padding: 6px 10px; cursor: pointer; }
.ppd-taste button:focus-visible, .ppd-taste:focus-visible { outline: 2px solid var(--p-primary-color, #4a90d9); }
.ppd-taste .picture { padding: 0; overflow: hidden; }
.ppd-taste .picture img { display: block; width: 100%; }
.ppd-taste .row { display: flex; flex-wrap: wrap; gap: 8px; }`;

function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
}

async function ask(path, body) {
    const options = body && {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ ...body, request: crypto.randomUUID() }),
    };
    const answer = await api.fetchApi(`/ppd/${path}`, options);
    if (!answer.ok) throw new Error((await answer.text()).slice(0, 300));
    return answer.json();
}

class Panel {
    constructor(root) {
        this.root = root;
        root.classList.add("ppd-taste");
        root.tabIndex = 0;
        root.setAttribute("role", "region");
        root.setAttribute("aria-label", "Taste");
        root.addEventListener("keydown", (event) => this.onKey(event));
        this.collected = () => this.refresh();
        api.addEventListener("execution_success", this.collected);
        this.refresh();
    }

    close() {
        api.removeEventListener("execution_success", this.collected);
    }

    onKey(event) {
        if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
        const undo = event.key.toLowerCase() === "u";
        if (!undo && !(event.key in KEYS)) return;
        event.preventDefault();
        event.stopPropagation(); // never the graph's
        if (undo) this.send(() => ask(`people/${this.state.person.id}/undo`, {}));
        else this.pick(KEYS[event.key]);
    }

    pick(verdict) {
        const { person, question } = this.state ?? {};
        if (question) this.send(() => ask(`people/${person.id}/picks`, { candidate: question.id, verdict }));
    }

    // One answer at a time: a second press while the first is on its way would answer a question not yet seen
    async send(request) {
        if (this.busy || !this.state) return;
        this.busy = true;
        try {
            this.show(await request());
        } catch (error) {
            this.complain(error);
        } finally {
            this.busy = false;
        }
    }

    async refresh() {
        try {
            this.people = await ask("people");
            const chosen = this.people.find((person) => person.id === this.state?.person.id) ?? this.people[0];
            this.show(chosen ? await ask(`people/${chosen.id}/question`) : null);
        } catch (error) {
            this.complain(error);
        }
    }

    complain(error) {
        this.root.append(element("p", { role: "alert", textContent: `Not saved: ${error.message}` }));
    }

    show(state) {
        this.state = state;
        const { person, question } = state ?? {};
        const parts = [];
        if (person) parts.push(this.selector(person), this.progress(person));
        if (question) parts.push(this.pair(question), element("p", { textContent: question.prompt }), this.choices());
        else parts.push(element("p", { textContent: "No question waits. Run a workflow with the node Collect Preferences, "
            + "and its pictures come here two by two." }));
        const focused = this.root.contains(document.activeElement);
        this.root.replaceChildren(...parts);
        if (focused) this.root.focus();
    }

    selector(current) {
        const options = this.people.map((person) => element("option", { value: person.id, textContent: person.name,
            selected: person.id === current.id }));
        const select = element("select", { ariaLabel: "Person" }, ...options);
        select.addEventListener("change", () => this.send(() => ask(`people/${select.value}/question`)));
        return select;
    }

    progress({ picks, open }) {
        return element("p", { className: "progress", ariaLive: "polite", textContent: `${picks} picks, ${open} questions wait` });
    }

    pair({ first, second }) {
        const sides = [["first", first, "Left"], ["second", second, "Right"]].map(([verdict, digest, name]) => {
            const image = element("img", { src: api.apiURL(`/ppd/pictures/${digest}`), alt: `${name} picture` });
            const button = element("button", { className: "picture", ariaLabel: `${name} is better` }, image);
            button.addEventListener("click", () => this.pick(verdict));
            return button;
        });
        return element("div", { className: "pair" }, ...sides);
    }

    choices() {
        const buttons = [["tie", "Neither (\u2191)"], ["skip", "Skip (\u2193)"]].map(([verdict, text]) => {
            const button = element("button", { textContent: text });
            button.addEventListener("click", () => this.pick(verdict));
            return button;
        });
        const undo = element("button", { textContent: "Undo (U)" });
        undo.addEventListener("click", () => this.send(() => ask(`people/${this.state.person.id}/undo`, {})));
        return element("div", { className: "row" }, ...buttons, undo);
    }
}

app.registerExtension({
    name: "ppd.taste",
    setup() {
        document.head.append(element("style", { textContent: STYLE }));
        let panel;
        app.extensionManager.registerSidebarTab({
            id: "ppd-taste",
            icon: "pi pi-heart",
            title: "Taste",
            tooltip: "Taste: pick the better picture",
            type: "custom",
            render: (root) => { panel = new Panel(root); },
            destroy: () => panel?.close(),
        });
    },
});
