// Tastes to share, to keep and to go back to: a part of the tab Taste.
import { app } from "../../scripts/app.js";
import { ask, element, send, t } from "./common.js";
import { SECTIONS } from "./taste_parts.js";

/** @import { Panel } from "./taste_panel.js" */

const FILES = ".safetensors";

const STYLE = `
.ppd-taste .tastes, .ppd-taste .tastes > div { display: flex; flex-direction: column; gap: 6px; }
.ppd-taste .tastes > div:empty { display: none; }
.ppd-taste .tastes > div + div { border-top: 1px solid var(--border-color); padding-top: 8px; margin-top: 2px; }
.ppd-taste .tastes label { display: flex; gap: 6px; align-items: baseline; }
.ppd-taste .tastes input[type=checkbox] { flex: none; width: auto; margin: 0; }
.ppd-taste .tastes input[type=text] { box-sizing: border-box; width: 100%; }
.ppd-taste .tastes input[type=number] { flex: none; width: 5em; }
.ppd-taste .tastes .code-told { color: var(--descrip-text); font-size: 12px; }
.ppd-taste .tastes .drop { border: 1px dashed var(--border-color) !important; border-radius: 6px; padding: 8px; }
.ppd-taste .taste-file { flex-wrap: nowrap; }
.ppd-taste .taste-file img { width: 48px; height: 48px; object-fit: cover; border-radius: 4px; }
.ppd-taste .taste-file > div { flex: 1; min-width: 0; overflow-wrap: anywhere; }
.ppd-taste .taste-file span { display: block; color: var(--descrip-text); font-size: 12px; }
.ppd-taste .tastes-mix select { flex: 1; min-width: 5em; }
.ppd-taste .tastes-mix input[type=text] { flex: 1; width: auto; }`;

/** @param {string} textContent @param {() => void} onClick */
function button(textContent, onClick) {
    const made = element("button", { textContent });
    made.addEventListener("click", onClick);
    return made;
}

/** @param {string} textContent */
function ticked(textContent) {
    const box = element("input", { type: "checkbox" });
    return { box, label: element("label", {}, box, textContent) };
}

/** @param {Blob} blob @param {string} name */
function save(blob, name) {
    const link = element("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// One element for the panel to place. It reads its lists when it comes into sight, and after each change of its own.
class Tastes {
    /** @param {Panel} panel */
    constructor(panel) {
        this.panel = panel;
        this.person = panel.standing.person;
        this.list = element("div", { className: "tastes-list" });
        this.back = element("div", { className: "tastes-back" });
        this.mix = element("div", { className: "tastes-mix" });
        this.root = element("div", { className: "tastes" }, element("style", { textContent: STYLE }),
            this.exporting(), this.importing(), this.list, this.back, this.mix);
        this.root.addEventListener("dragover", (event) => this.onDrag(event));
        this.root.addEventListener("drop", (event) => this.onDrop(event));
        new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && panel.run(() => this.refresh(), true)).observe(this.root);
    }

    /** @param {() => unknown} work */
    run(work) {
        this.panel.run(work);
    }

    // A new file is in the nodes' lists at once
    /** @param {string} text */
    async changed(text) {
        this.panel.notify(text);
        await this.refresh();
        await app.refreshComboInNodes?.();
    }

    async refresh() {
        /** @type {[PPD.TasteFile[], PPD.Day[]]} */
        const [files, days] = await Promise.all([ask("tastes"), ask(`people/${this.person.id}/days`)]);
        this.list.replaceChildren(...files.map((one) => this.entry(one)));
        this.back.replaceChildren(...this.versions(days));
        this.mix.replaceChildren(...this.blending(files.filter(({ problem }) => !problem)));
    }

    exporting() {
        const [name, thumbnail] = [ticked(t("with_name", this.person)), ticked(t("with_thumbnail"))];
        const note = element("input", { type: "text", maxLength: 500, placeholder: t("with_note"), ariaLabel: t("with_note") });
        const download = () => this.run(async () => {
            const query = new URLSearchParams({ note: note.value.trim() });
            if (name.box.checked) query.set("name", "1");
            if (thumbnail.box.checked) query.set("thumbnail", "1");
            const answer = await send(`people/${this.person.id}/taste?${query}`, {});
            const day = new Date().toISOString().slice(0, 10);
            save(await answer.blob(), `${name.box.checked ? this.person.name : "taste"} ${day}${FILES}`);
        });
        const code = element("input", { type: "text", readOnly: true, hidden: true, ariaLabel: t("code") });
        const epsilon = element("input", { type: "number", min: 0, max: 100, step: 0.5, value: 0, ariaLabel: t("code_epsilon") });
        const told = element("span", { className: "code-told", hidden: true, ariaLive: "polite" });
        const copy = () => this.run(async () => {
            if (!epsilon.reportValidity()) return;
            const { code: made, noise } = await ask(`people/${this.person.id}/code?epsilon=${epsilon.value || 0}`);
            code.value = made;
            told.textContent = noise ? t("code_hides", noise) : t("code_plain");
            code.hidden = told.hidden = false;
            code.select();
            await navigator.clipboard?.writeText(code.value).catch(() => {}); // there is none over plain HTTP
            this.panel.notify(t("code_copied"));
        });
        return element("div", {}, name.label, thumbnail.label, note,
            element("div", { className: "row" }, button(t("taste_save"), download), button(t("taste_code"), copy)),
            element("label", { title: t("code_epsilon_tooltip") }, t("code_epsilon"), epsilon), code, told);
    }

    importing() {
        const file = element("input", { type: "file", accept: FILES, hidden: true });
        file.addEventListener("change", () => this.take([...(file.files ?? [])]));
        const code = element("input", { type: "text", placeholder: t("paste_code"), ariaLabel: t("paste_code") });
        code.addEventListener("change", () => this.run(async () => {
            if (!code.value.trim()) return;
            const made = await ask("tastes/code", { code: code.value });
            code.value = "";
            await this.changed(t("taste_taken", made));
        }));
        return element("div", { className: "drop" }, element("div", { className: "row" },
            button(t("taste_import"), () => file.click()), element("span", { textContent: t("taste_drop") })), file, code);
    }

    // ComfyUI would open what is dropped as a workflow
    /** @param {DragEvent} event */
    onDrag(event) {
        if (!event.dataTransfer?.types.includes("Files")) return;
        event.preventDefault();
        event.stopPropagation();
    }

    /** @param {DragEvent} event */
    onDrop(event) {
        this.onDrag(event);
        this.take([...(event.dataTransfer?.files ?? [])]);
    }

    /** @param {Iterable<File>} files */
    take(files) {
        this.run(async () => {
            for (const file of files) {
                const path = `tastes?${new URLSearchParams({ file: file.name })}`;
                const made = await (await send(path, { method: "POST", body: file })).json();
                await this.changed(t("taste_taken", made));
            }
        });
    }

    /** @param {PPD.TasteFile} one */
    entry(one) {
        const picture = element("img", { alt: "", hidden: !one.thumbnail });
        if (one.thumbnail) picture.src = `data:image/jpeg;base64,${one.thumbnail}`;
        const title = one.name || one.file.slice(0, -FILES.length);
        const told = one.problem ?? t("taste_about", one);
        const needs = one.problem || one.encoder_here ? "" : t("taste_needs", one);
        const words = element("div", { title: one.file }, element("strong", { textContent: title }),
            element("span", { textContent: [told, needs].filter(Boolean).join(" ") }));
        if (one.note) words.append(element("span", { textContent: one.note }));
        return element("div", { className: "row taste-file" }, picture, words, button(t("delete"), () => this.remove(one)));
    }

    /** @param {PPD.TasteFile} one */
    async remove({ file }) {
        const message = t("taste_delete", { file });
        if (!(await app.extensionManager.dialog.confirm({ title: t("delete"), message, type: "delete" }))) return;
        this.run(async () => {
            await ask(`tastes/${file.split("/").map(encodeURIComponent).join("/")}`, undefined, "DELETE");
            await this.changed(t("taste_deleted", { file }));
        });
    }

    /** @param {PPD.Day[]} days */
    versions(days) {
        if (days.length < 2) return [];
        const options = days.slice(1).map(({ date, picks }) =>
            element("option", { value: date, textContent: t("as_on", { date, picks }) }));
        const select = element("select", { ariaLabel: t("go_back") },
            element("option", { value: "", textContent: t("go_back") }), ...options);
        select.addEventListener("change", () => select.value && this.goBack(select.value).finally(() => (select.value = "")));
        return [element("div", { className: "row" }, select)];
    }

    /** @param {string} day */
    async goBack(day) {
        const defaultValue = `${this.person.name} ${new Date().toISOString().slice(0, 10)}`;
        const name = await app.extensionManager.dialog.prompt({ title: t("go_back"), message: t("go_back_copy"), defaultValue });
        if (!name?.trim()) return;
        this.run(async () => {
            const copy = await ask(`people/${this.person.id}/go_back`, { day, copy_name: name });
            await this.panel.open(this.person.id);
            this.panel.notify(t("gone_back", copy));
        });
    }

    /** @param {PPD.TasteFile[]} files */
    blending(files) {
        const choices = [...this.panel.people.filter(({ picks }) => picks).map(({ id, name }) => [id, name]),
            ...files.map(({ choice, name, file }) => [choice, `${t("taste")}: ${name || file.slice(0, -FILES.length)}`])];
        if (choices.length < 2) return [];
        const [first, second] = [0, 1].map((place) => element("select", { ariaLabel: t("blend_of") },
            ...choices.map(([value, textContent], index) => element("option", { value, textContent, selected: index === place }))));
        const weight = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: 0.5, ariaLabel: t("blend_weight") });
        const name = element("input", { type: "text", maxLength: 80, placeholder: t("name"), ariaLabel: t("name") });
        const make = () => this.run(async () => {
            const body = { first: first.value, second: second.value, weight: Number(weight.value), name: name.value };
            await this.changed(t("taste_taken", await ask("tastes/blend", body)));
        });
        return [element("div", { className: "row" }, first, weight, second),
            element("div", { className: "row" }, name, button(t("blend"), make))];
    }
}

/** @type {WeakMap<Panel, Tastes>} */
const made = new WeakMap(); // by panel: what is typed and ticked stays while the panel around it is made anew

/** @param {Panel} panel */
function tastes(panel) {
    const { person } = panel.standing, known = made.get(panel), shown = known?.person.id === person.id ? known : new Tastes(panel);
    made.set(panel, shown);
    return shown.root;
}

SECTIONS.push({ name: "share", title: () => t("share"), make: tastes });
