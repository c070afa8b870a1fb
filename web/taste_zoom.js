// One zoom and one place for all pictures of a question, and a dividing line between two that lie on each other.

const STEP = 1.0015; // a wheel's turn by one pixel
const LARGEST = 32;
const STILL = 4; // pixels that a press may wander and be a click
const TWICE = 250; // milliseconds in which a second click may follow where a double click means something

// Where the picture's own pixels lie, without the bars beside them
/** @param {HTMLImageElement} image */
function pixelsOf(image) {
    const box = image.getBoundingClientRect();
    const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
    const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
    return { left: box.left + (box.width - width) / 2, top: box.top + (box.height - height) / 2, width, height };
}

/** @param {HTMLImageElement} image @param {MouseEvent} event */
function isOn(image, { clientX, clientY }) {
    const { left, top, width, height } = pixelsOf(image);
    return clientX >= left && clientX <= left + width && clientY >= top && clientY <= top + height;
}

export class Zoom {
    // A stage holds `.picture` buttons, each with an image; `onPick(button)` hears clicks on the pictures' pixels
    /** @param {HTMLElement} stage @param {(frame: HTMLElement) => void} onPick @param {{ turns: boolean }} options */
    constructor(stage, onPick, { turns }) {
        this.stage = stage;
        this.onPick = onPick;
        /** @type {Map<number, PointerEvent>} */
        this.pointers = new Map(); // that are down
        /** @type {PointerEvent | undefined} */
        this.began = undefined; // the first of them
        this.dragged = false;
        this.scale = 1;
        this.x = 0;
        this.y = 0;
        this.coming = 0; // the pick that a second click prevents
        if (turns) stage.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
        stage.addEventListener("pointerdown", (event) => this.onDown(event));
        stage.addEventListener("pointermove", (event) => this.onMove(event));
        for (const name of /** @type {const} */ (["pointerup", "pointercancel"])) stage.addEventListener(name, (event) => this.onUp(event));
        stage.addEventListener("click", (event) => this.onClick(event));
        stage.addEventListener("dblclick", () => this.isMoved && this.reset());
        this.reset();
    }

    get frame() {
        return /** @type {HTMLElement} */ (this.stage.querySelector("button"));
    }

    get isMoved() {
        return this.scale !== 1;
    }

    get isDivided() {
        return this.stage.classList.contains("divided");
    }

    reset() {
        this.set(1, 0, 0);
    }

    // A scale, and how far the middle is moved in widths and heights of the frame
    /** @param {number} scale @param {number} x @param {number} y */
    set(scale, x, y) {
        const reach = Math.max(0, (scale - 1) / 2);
        /** @param {number} value */
        const clamp = (value) => Math.max(-reach, Math.min(reach, value));
        this.scale = scale;
        this.x = clamp(x);
        this.y = clamp(y);
        clearTimeout(this.coming);
        this.draw();
    }

    draw() {
        for (const image of this.stage.querySelectorAll("img")) {
            image.style.transform = this.isMoved ? `translate(${100 * this.x}%, ${100 * this.y}%) scale(${this.scale})` : "";
        }
    }

    // What is under the point stays there
    /** @param {number} scale @param {MouseEvent} point */
    zoomTo(scale, point) {
        const under = point.target instanceof Element ? point.target.closest("button") : null;
        const box = (under ?? this.frame).getBoundingClientRect();
        const [u, v] = [(point.clientX - box.left) / box.width - 0.5, (point.clientY - box.top) / box.height - 0.5];
        const ratio = scale / this.scale;
        this.set(scale, u - (u - this.x) * ratio, v - (v - this.y) * ratio);
    }

    // One pixel of the picture on one of the screen, and back; a picture that is smaller than its frame twice as large
    fullSize() {
        const image = this.stage.querySelector("img");
        if (!image) return;
        const full = (this.scale * image.naturalWidth) / pixelsOf(image).width / devicePixelRatio;
        if (this.isMoved) this.reset();
        else this.set(full > 1 ? full : 2, 0, 0);
    }

    // Back to how a question begins; whether anything was otherwise
    undo() {
        const wasOther = this.isMoved || this.isDivided;
        this.reset();
        this.divide(false);
        return wasOther;
    }

    divide(isDivided = !this.isDivided) {
        this.stage.classList.toggle("divided", isDivided && this.stage.querySelectorAll(".picture").length === 2);
    }

    /** @param {WheelEvent} event */
    onWheel(event) {
        event.preventDefault();
        event.stopPropagation();
        this.zoomTo(Math.max(1, Math.min(LARGEST, this.scale * STEP ** -event.deltaY)), event);
    }

    /** @param {PointerEvent} event */
    onDown(event) {
        if (event.button) return;
        this.pointers.set(event.pointerId, event);
        if (this.pointers.size === 1) {
            this.began = event;
            this.dragged = false;
        }
        this.moveLine(event);
    }

    /** @param {PointerEvent} event */
    onMove(event) {
        this.moveLine(event);
        const before = this.pointers.get(event.pointerId);
        if (!before || !this.began) return;
        const other = [...this.pointers.values()].find(({ pointerId }) => pointerId !== event.pointerId);
        this.pointers.set(event.pointerId, event);
        if (Math.hypot(event.clientX - this.began.clientX, event.clientY - this.began.clientY) > STILL || other) {
            if (!this.dragged) this.stage.setPointerCapture(event.pointerId);
            this.dragged = true;
        }
        if (other) {
            /** @param {PointerEvent} one */
            const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
            this.zoomTo(Math.max(1, Math.min(LARGEST, (this.scale * apart(event)) / Math.max(1, apart(before)))), other);
        } else if (this.dragged && this.isMoved) {
            const box = this.frame.getBoundingClientRect();
            this.set(this.scale, this.x + (event.clientX - before.clientX) / box.width, this.y + (event.clientY - before.clientY) / box.height);
        }
    }

    /** @param {PointerEvent} event */
    onUp(event) {
        this.pointers.delete(event.pointerId);
    }

    /** @param {PointerEvent} event */
    moveLine({ clientX }) {
        if (!this.isDivided) return;
        const box = this.stage.getBoundingClientRect();
        this.stage.style.setProperty("--line", `${Math.max(0, Math.min(100, (100 * (clientX - box.left)) / box.width))}%`);
    }

    // A drag is no pick, nor is a click on the bars beside a picture, nor one on two pictures that lie on each other
    /** @param {MouseEvent} event */
    onClick(event) {
        const button = event.target instanceof Element && event.target.closest("button"), image = button && button.querySelector("img");
        const byMouse = event.detail > 0;
        if (!image || (byMouse && (this.dragged || this.isDivided || !isOn(image, event)))) return;
        if (!byMouse || !this.isMoved) this.onPick(button);
        else if (event.detail === 1) this.coming = setTimeout(() => this.onPick(button), TWICE);
    }
}
