// Rate what I have: finished pictures of ComfyUI's folders, each kept or not for me by two small controls or by keys.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ask, element, press, t } from "./common.js";
import { isSeen, runs, takeKeys, whileHeld } from "./keys.js";
import { SECTIONS } from "./taste_parts.js";

/**
 * @import { Panel } from "./taste_panel.js"
 * @typedef {HTMLElement & { picture: PPD.Finished }} Tile
 */

const RATINGS = /** @type {const} */ (["keep", "not"]);
const SIGNS = { keep: "♥", not: "✕" };
/** @type {Record<string, PPD.Rating>} */
const KEYS = { k: "keep", x: "not" };
/** @type {Record<string, number>} */
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };
const SETTLED = 300; // milliseconds after the last pictures of a run
/** @type {WeakMap<Panel, Library>} */
const sections = new WeakMap();

document.head.append(element("link", { rel: "stylesheet", href: new URL("library.css", import.meta.url).href }));
SECTIONS.push({ name: "library", title: () => t("library"), make: library });

// The section of a panel, which stays the same element whenever the panel is made anew
/** @param {Panel} panel */
function library(panel) {
    const section = sections.get(panel) ?? new Library(panel);
    sections.set(panel, section);
    section.update();
    return section.root;
}

/** @param {{ folder: string, name: string }} picture */
const keyOf = ({ folder, name }) => `${folder}/${name}`;
/** @param {Record<string, any>} values */
const query = (values) => new URLSearchParams(values).toString();

class Library {
    /** @param {Panel} panel */
    constructor(panel) {
        this.panel = panel;
        this.folder = "output";
        this.unrated = false;
        /** @type {PPD.LibraryPage} */
        this.grid = { pictures: [], next: null, counts: { kept: 0, not: 0, choices: 0, moodboard: 0 } };
        /** @type {Comfy.Picture[]} */
        this.painted = []; // by the last run
        /** @type {PPD.Finished[]} */
        this.recent = []; // the same, with what is known of them
        this.stale = false;
        this.shownFor = "";
        this.root = element("div", { className: "ppd-library" });
        this.folders = element("select", { ariaLabel: t("library_folder") });
        this.folders.addEventListener("change", () => this.look(this.folders.value));
        const filter = element("input", { type: "checkbox" });
        filter.addEventListener("change", () => {
            this.unrated = filter.checked;
            this.look(this.folder);
        });
        this.gave = element("p", { className: "gave" });
        this.strip = element("div", { className: "tiles" });
        this.fresh = element("div", { hidden: true }, element("h3", { textContent: t("library_painted") }), this.strip);
        this.tiles = element("div", { className: "tiles" });
        this.none = element("p", { className: "empty", textContent: t("library_none") });
        this.further = element("button", { textContent: t("more") });
        this.further.addEventListener("click", () => this.more());
        this.root.append(
            element("div", { className: "row" }, this.folders, element("label", {}, filter, ` ${t("library_unrated")}`)),
            this.gave, this.fresh, this.tiles, this.none, this.further,
            element("p", { className: "hint", textContent: t("library_keys") }));
        takeKeys(this);
        this.root.addEventListener("focusin", (event) => this.reach(tileOf(event)));
        this.large = new Large(this);
        this.watch();
    }

    get person() {
        return this.panel.state?.person.id;
    }

    // Looks at the folder whenever it comes in sight, and for what changes while it is: person, ratings, pictures of a run
    watch() {
        new IntersectionObserver((entries) => {
            this.stale ||= !this.isSeen;
            this.isSeen = entries[entries.length - 1].isIntersecting;
            this.update();
        }).observe(this.root);
        this.root.addEventListener("focusout", () => this.update());
        api.addEventListener("executed", ({ detail }) => this.painting(detail));
    }

    // Pictures of a run, as its nodes come to their ends
    /** @param {Comfy.Events["executed"]} run */
    painting({ prompt_id: run, output }) {
        const images = output?.images?.filter(({ type }) => ["output", "temp"].includes(type)) ?? [];
        if (!images.length) return;
        this.painted = run === this.run ? [...this.painted, ...images] : images;
        this.run = run;
        this.stale = true;
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.update(), SETTLED);
    }

    // What the panel knows of the person: where it is other than here, it was changed elsewhere
    update() {
        const { id, ratings } = this.panel.state?.person ?? {};
        if (!id || !this.isSeen || (this.shownFor === id && this.ratings === ratings && !this.stale)) return;
        this.shownFor = id;
        this.ratings = ratings;
        this.stale = false;
        this.look(this.folder, Math.max(this.grid.pictures.length, 1));
    }

    /** @param {string} folder @param {number} [limit] */
    look(folder, limit = 1) {
        this.panel.run(async () => {
            /** @type {string[]} */
            const names = await ask("library/folders");
            this.folder = names.includes(folder) ? folder : names[0];
            this.folders.replaceChildren(...names.map((name) => element("option", { value: name, textContent: name,
                selected: name === this.folder })));
            this.grid = await this.page(limit > 1 ? { limit } : {});
            this.recent = await this.details();
            this.render();
        }, true);
    }

    more() {
        this.panel.run(async () => {
            if (!this.grid.next) return; // a press before has brought the rest
            const { pictures, ...rest } = await this.page({ before: this.grid.next });
            this.grid = { ...rest, pictures: [...this.grid.pictures, ...pictures] };
            this.render();
        });
    }

    /** @param {object} values @returns {Promise<PPD.LibraryPage>} */
    async page(values) {
        return ask(`people/${this.person}/library?${query({ folder: this.folder, ...(this.unrated && { unrated: 1 }), ...values })}`);
    }

    // What is known of the pictures that were painted just now
    /** @returns {Promise<PPD.Finished[]>} */
    async details() {
        const found = await Promise.all(["output", "temp"].map((folder) => {
            const names = this.painted.filter(({ type }) => type === folder).map(({ subfolder, filename }) =>
                [subfolder, filename].filter(Boolean).join("/").replaceAll("\\", "/"));
            const values = new URLSearchParams([["folder", folder], ...names.map((name) => ["picture", name])]);
            return names.length ? ask(`people/${this.person}/library/pictures?${values}`).catch(() => []) : [];
        }));
        return found.flat();
    }

    // One picture: the same again takes it back
    /** @param {PPD.Finished} picture @param {PPD.Rating} rating */
    rate(picture, rating) {
        this.panel.run(async () => {
            const { folder, name } = picture, wanted = picture.rating === rating ? null : rating;
            const counts = await press(`people/${this.person}/library/ratings`, { folder, picture: name, rating: wanted });
            this.rated([keyOf(picture)], wanted, counts);
        });
    }

    // All others of its prompt that are not rated
    /** @param {PPD.Finished} picture @param {PPD.Rating} rating */
    async rateRest(picture, rating) {
        const { folder, name } = picture, within = this.folder.split(": ")[0] === folder ? this.folder : folder;
        const path = `people/${this.person}/library/rest`;
        const { count } = await ask(`${path}?${query({ folder, picture: name, within })}`);
        if (!count) return this.panel.notify(t("library_rest_none"));
        const message = t("library_rest_message", { count, folder: within });
        if (!await app.extensionManager.dialog.confirm({ title: t("library_rest"), message })) return;
        this.panel.run(async () => {
            const { pictures, counts } = await press(path, { folder, picture: name, within, rating });
            const root = within.split(": ")[0];
            this.rated(pictures.map((/** @type {string} */ one) => `${root}/${one}`), rating, counts);
        });
    }

    /** @param {string[]} keys @param {PPD.Rating | null} rating @param {PPD.Counts} counts */
    rated(keys, rating, counts) {
        for (const picture of this.all()) if (keys.includes(keyOf(picture))) picture.rating = rating;
        this.grid.counts = counts;
        this.ratings = counts.kept + counts.not; // as the panel knows soon
        this.render();
        this.panel.changed(this.panel.standing.person.id);
    }

    all() {
        return [...this.recent, ...this.grid.pictures];
    }

    render() {
        const { counts, next, pictures } = this.grid;
        const above = new Set(this.recent.map(keyOf));
        this.gave.textContent = counts.kept + counts.not ? t("library_gave", counts) : t("library_begin");
        this.fresh.hidden = !this.recent.length;
        this.fill(this.strip, this.recent);
        this.fill(this.tiles, pictures.filter((picture) => !above.has(keyOf(picture))));
        this.none.hidden = pictures.length > 0;
        this.further.hidden = !next;
        this.large.render();
    }

    // Tiles stay where their pictures do, with the focus
    /** @param {HTMLElement} list @param {PPD.Finished[]} pictures */
    fill(list, pictures) {
        const known = new Map(tilesOf(list).map((tile) => [keyOf(tile.picture), tile]));
        const tiles = pictures.map((picture) => {
            const tile = known.get(keyOf(picture));
            return tile?.picture.thumbnail === picture.thumbnail ? tile : this.tile(picture);
        });
        if (tiles.some((tile, index) => tile !== list.children[index]) || tiles.length !== list.children.length) {
            list.replaceChildren(...tiles);
        }
        tiles.forEach((tile, index) => this.dress(tile, pictures[index]));
        if (tiles.length && !tiles.some((tile) => tile.tabIndex === 0)) tiles[0].tabIndex = 0;
    }

    /** @param {PPD.Finished} picture */
    tile(picture) {
        const image = element("img", { src: api.apiURL(picture.thumbnail), alt: "", loading: "lazy" });
        image.addEventListener("error", () => image.replaceWith(element("span", { textContent: t("library_unseen") })));
        const buttons = controls((rating) => this.rate(tile.picture, rating), -1);
        const tile = Object.assign(element("div", { className: "tile", tabIndex: -1 }, image, ...buttons), { picture });
        tile.setAttribute("role", "group");
        tile.addEventListener("click", ({ target }) => {
            if (target instanceof Element && !target.closest("button")) this.large.open(tile);
        });
        return tile;
    }

    /** @param {Tile} tile @param {PPD.Finished} picture */
    dress(tile, picture) {
        const { prompt, rating, name } = picture;
        tile.picture = picture;
        tile.title = prompt || `${name} ${t("library_no_prompt")}`;
        tile.setAttribute("aria-label", [prompt || name, rating && t(`library_${rating}`)].filter(Boolean).join(". "));
        mark(tile, rating);
    }

    // The arrows go on from the tile that was reached last
    /** @param {Tile | null} tile */
    reach(tile) {
        if (!tile?.parentElement) return;
        for (const other of tilesOf(tile.parentElement)) other.tabIndex = other === tile ? 0 : -1;
    }

    /** @param {KeyboardEvent} event */
    keeps(event) {
        return !runs(event);
    }

    /** @param {KeyboardEvent} event @returns {PPD.Action | null} */
    actionOf(event) {
        const { key, target } = event, tile = tileOf(event), list = tile?.parentElement;
        if (key === "Escape") return () => target instanceof HTMLElement && target.blur(); // the page around it has the next one
        if (!tile || !list || target !== tile) return null;
        const rating = KEYS[key.toLowerCase()], step = stepOf(key, list);
        if (step) return whileHeld(() => this.step(tile, list, step));
        if (!rating && key !== "Enter") return null;
        if (!isSeen(tile, [tile])) return () => tile.scrollIntoView({ block: "nearest" }); // first seen, then rated
        return rating ? () => this.rate(tile.picture, rating) : () => this.large.open(tile);
    }

    /** @param {Tile} tile @param {HTMLElement} list @param {number} step */
    step(tile, list, step) {
        const tiles = tilesOf(list), next = tiles[tiles.indexOf(tile) + step];
        next?.focus({ preventScroll: true });
        (next ?? tile).scrollIntoView({ block: "nearest" });
    }
}

// One picture as large as it fits, over everything else
class Large {
    /** @param {Library} library */
    constructor(library) {
        this.library = library;
        this.root = this.dialog = element("dialog", { className: "ppd-large" });
        this.byMouse = true;
        /** @type {Tile | null} */
        this.tile = null; // of the picture
        takeKeys(this);
        this.dialog.addEventListener("click", ({ target }) => (target === this.dialog || target === this.image) && this.dialog.close());
        this.dialog.addEventListener("close", () => {
            this.tile?.focus();
            this.tile = null;
        });
        library.root.append(this.dialog);
    }

    /** @param {Tile} tile */
    open(tile) {
        this.tile = tile;
        const { picture } = tile, { prompt, name } = picture;
        const image = element("img", { src: api.apiURL(picture.picture), alt: prompt || name });
        image.addEventListener("error", () => image.replaceWith(element("p", { textContent: t("library_unseen") })));
        this.image = image;
        const buttons = controls((rating) => this.tile && this.library.rate(this.tile.picture, rating));
        if (prompt) {
            const rest = element("button", { textContent: t("library_rest") });
            rest.addEventListener("click", () => {
                this.dialog.close();
                this.library.rateRest(picture, "not").catch(({ message: error }) => this.library.panel.notify(t("failed", { error })));
            });
            buttons.push(rest);
        }
        const close = element("button", { textContent: t("library_close") });
        close.addEventListener("click", () => this.dialog.close());
        this.dialog.replaceChildren(image, element("p", { className: "prompt", textContent: prompt || t("library_no_prompt") }),
            element("div", { className: "row" }, ...buttons, close));
        this.render();
        if (!this.dialog.open) this.dialog.showModal();
        this.dialog.focus();
    }

    render() {
        if (this.tile) mark(this.dialog, this.tile.picture.rating);
    }

    keeps() {
        return true; // Escape closes it all the same
    }

    /** @param {KeyboardEvent} event */
    actionOf({ key }) {
        const { tile } = this, rating = KEYS[key.toLowerCase()], step = STEPS[key];
        if (!tile) return null;
        const next = step && (step < 0 ? tile.previousElementSibling : tile.nextElementSibling);
        if (next) return whileHeld(() => this.open(/** @type {Tile} */ (next)));
        const isRated = rating && isSeen(this.dialog, [...this.dialog.children].slice(0, 1));
        return isRated ? () => this.library.rate(tile.picture, rating) : null;
    }
}

// The two small controls
/** @param {(rating: PPD.Rating) => void} onRating @param {number} [tabIndex] */
function controls(onRating, tabIndex = 0) {
    return RATINGS.map((rating) => {
        const made = element("button", { className: rating, textContent: SIGNS[rating], title: t(`library_do_${rating}`), tabIndex,
            ariaLabel: t(`library_do_${rating}`) });
        made.addEventListener("click", () => onRating(rating));
        return made;
    });
}

/** @param {HTMLElement} parent @param {PPD.Rating | null} rating */
function mark(parent, rating) {
    parent.classList.toggle("kept", rating === "keep");
    parent.classList.toggle("refused", rating === "not");
    for (const name of RATINGS) parent.querySelector(`button.${name}`)?.setAttribute("aria-pressed", String(rating === name));
}

/** @param {Element} list */
const tilesOf = (list) => /** @type {Tile[]} */ ([...list.children]);

// The tile that an event is of
/** @param {Event} event */
const tileOf = ({ target }) => /** @type {Tile | null} */ (target instanceof Element ? target.closest(".tile") : null);

// How far an arrow goes in a grid of as many columns as fit
/** @param {string} key @param {Element} list */
function stepOf(key, list) {
    const columns = getComputedStyle(list).gridTemplateColumns.split(" ").length;
    return STEPS[key] ?? { ArrowUp: -columns, ArrowDown: columns }[key];
}
