// Pictures that are shown or may come next, as elements that have loaded: a question is seen as soon as it is asked.
import { element, pictureURL } from "./common.js";

const KEPT = 40; // of the pictures used last

export class Pictures {
    constructor() {
        /** @type {Map<string, HTMLImageElement>} */
        this.images = new Map();
        /** @type {Set<string>} */
        this.broken = new Set(); // digests that could not be shown
    }

    // The element of a picture; it keeps what it has loaded, since the server lets no browser store pictures
    /** @param {string} digest @returns {HTMLImageElement} */
    get(digest) {
        let image = this.images.get(digest);
        if (!image) {
            image = element("img", { src: pictureURL(digest), draggable: false });
            image.addEventListener("error", () => this.broken.add(digest));
        }
        this.images.delete(digest);
        this.images.set(digest, image);
        return image;
    }

    // Load what may come next, and let go of what was seen long ago
    /** @param {string[]} digests */
    expect(digests) {
        for (const digest of digests) this.get(digest).decode().catch(() => {});
        for (const [digest, image] of this.images) {
            if (this.images.size <= KEPT) break;
            if (!image.isConnected) this.images.delete(digest);
        }
    }
}
