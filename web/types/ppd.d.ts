// What our routes answer (nodes/routes.py and the other files with routes), and what our modules give each other.

declare namespace PPD {
    type Verdict = "first" | "second" | "tie" | "skip";
    type Rating = "keep" | "not";

    interface Person {
        id: string;
        name: string;
        half_life: number | null;
        encoder: string;
        guide: string | null;
        picks: number;
        open: number;
        ratings: number;
        revision: number;
    }

    interface News {
        person: string;
        revision: number;
        request: string;
    }

    // A question as a node has filed it
    interface Asked {
        id: number;
        person: string;
        prompt: string;
        first: string;
        second: string;
    }

    // Two pictures, by their digests, and what was said of them
    interface Pair {
        id: number;
        prompt: string;
        first: string;
        second: string;
        verdict: Verdict | null;
        pick: number | null;
        pictures?: undefined;
    }

    // Four or nine pictures, of which one is the best
    interface Grid {
        id?: undefined;
        prompt: string;
        pictures: string[];
        verdict: null;
    }

    // An answer that was given
    interface Pick extends Pair {
        verdict: Verdict;
        pick: number;
    }

    interface History {
        picks: Pick[];
        more: boolean;
    }

    interface Opposites {
        low: string;
        high: string;
        japanese?: [string, string] | null;
    }
    interface Look extends Opposites {
        name: string;
    }

    // What the picks say of a look (ppd/encoders/statements.py)
    interface Statement extends Look {
        state: "sure" | "likely" | "unknown" | "not asked yet";
        prefers: string;
        probability_low: number;
        probability_high: number;
        mean: number;
        least: number;
        most: number;
        instead: string[];
    }

    // What the brand guide that a person is bound to changes of their taste (nodes/guides.py)
    interface Guide {
        name: string;
        changed: boolean;
        binds: boolean;
        held: (Look & { side: "low" | "high", level: string })[];
    }

    interface NoGuide {
        problem: string;
    }

    // How a person stands (nodes/standing.py)
    interface Standing {
        person: Person;
        encoders: string[];
        guides: string[];
        guide: Guide | NoGuide | null;
        studies: string[];
        question: Pair | Grid | null;
        upcoming: string[];
        waiting: number;
        unseen: number;
        reading: [done: number, of: number] | null;
        problem: string | null;
        noise: number;
        known: { share: number; more: number } | null;
        statements: Statement[];
        changed?: Pair[];
    }

    // The same after a press, with the question that has the latest answer
    interface Answered extends Standing {
        changed: Pair[];
        latest: number | undefined;
    }

    // A part of the tab Taste that is another module's
    interface Section {
        name: string;
        title(): string;
        make(panel: import("../taste_panel.js").Panel): HTMLElement;
    }

    // Whoever keys belong to while the focus is in its root
    interface KeyOwner {
        root: HTMLElement;
        byMouse?: boolean;
        actionOf(event: KeyboardEvent): Action | null | undefined;
        keeps?(event: KeyboardEvent): unknown;
    }
    interface Action {
        (): unknown;
        isHeld?: boolean;
    }

    // A finished picture of ComfyUI's folders (nodes/library.py)
    interface Finished {
        folder: string;
        name: string;
        prompt: string;
        rating: Rating | null;
        picture: string;
        thumbnail: string;
    }
    interface Counts {
        kept: number;
        not: number;
        choices: number;
        moodboard: number;
    }
    interface LibraryPage {
        pictures: Finished[];
        next: string | null;
        counts: Counts;
    }

    // A taste in a file (nodes/tastes.py)
    interface TasteFile {
        file: string;
        choice: string;
        created: string;
        picks: number;
        problem: string | null;
        name: string;
        note: string;
        thumbnail: string;
        encoder: string | null;
        encoder_here: string | null;
    }
    interface Day {
        date: string;
        picks: number;
    }

    // A blind test (nodes/blind_routes.py)
    interface BlindTest {
        id: string;
        created: string;
        answered: number;
        most: number;
        is_over: boolean;
        is_decided: boolean;
        question: { id: string; prompt: string } | null;
        result: BlindResult | null;
    }
    interface BlindResult {
        pairs: Compared[];
        consistency: { of: number; same: number; ties: number; most: number };
        answers: number;
        seconds_per_pick: number | null;
        minutes: number;
        folder: string;
    }
    interface Compared {
        arms: [string, string];
        wins: number;
        losses: number;
        ties: number;
        interval: [number, number];
        decided: boolean;
    }

    // How a training stands (ppd/training/runs.py, nodes/training_routes.py)
    interface Training {
        state: "new" | "preparing" | "training" | "measuring" | "stopping" | "stopped" | "finished" | "failed" | "died";
        is_active: boolean;
        is_half_done: boolean;
        is_dry_run: boolean;
        others: string | null;
        message: string;
        step: number;
        of: number;
        seconds_left: number | null;
        figures: { accuracy?: number; held_out?: number };
        measured: number;
        sheet: number | null;
        page: boolean;
        worth: { own: number; anothers: number; personal: number; people: number; kind: "real" | "simulated" } | null;
        costs: { seconds: number; gigabytes: number } | null;
    }

    // Why something is said of somebody (nodes/why.py); shares are of 100, for the high side
    interface Why {
        answers: number;
        half_life: number | null;
        points: { answers: number; day: string }[];
        looks: WhyLook[];
        drift: Drift[];
        is_early: boolean;
    }
    interface WhyLook extends Statement {
        lean: number;
        share: [number, number, number];
        of_people: number;
        causes: Cause[];
        course: [number, number, number][];
    }
    interface Cause {
        pair: string;
        prompt: string;
        day: string;
        chosen: string;
        rejected: string | null;
        is_tie: boolean;
        adds: number;
        without: number;
    }
    interface Drift extends Opposites {
        look: string;
        since: number;
        before: number;
        now: number;
        half_life: number;
        day: string;
    }
    interface Said {
        state: Statement["state"];
        prefers: string;
    }
    interface WhatIf {
        decided: number;
        said: (Look & { before: Said; after: Said })[];
    }

    // What `element` sets: a text may be given as a number or a truth, as the browser writes it
    type Properties<Made> = {
        [Name in keyof Made]?: Name extends "style" ? string : string extends Made[Name] ? Made[Name] | number | boolean : Made[Name];
    };
}
