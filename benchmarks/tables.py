"""The tables of docs/benchmarks.md, each a function of the figures of its runs, by their names in benchmarks/all.py.

They read JSON alone, so that the page is checked without loading anything that measures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Runs = dict[str, Any]
"""The figures of each run."""

SWITCHES = {
    "contrast": "contrast of own and another's u",
    "safeguard": "the safeguard alone",
    "all": "soft labels, true noise, steered beta and safeguard",
    "distillation": "self-distillation alone",
}
OPPOSITE = "the opposite on unconditional rows"
WORLDS = {"flow": "pocket-flow", "pocket": "pocket"}
"""By what the runs of them are called."""
SEEN = ("wins vs base", "own vs another's", "reward above the base", "out of range")
SHOWN = {"pairs": 2, "best of 4": 4, "best of 9": 9}
"""Pictures of a question."""
FAMILIES = {"qwen_image": "Qwen-Image", "z_image": "Z-Image", "flux": "Flux", "krea2": "Krea 2"}


def number(value: float, digits: int = 3) -> str:
    """Without the zero before the point, nor the sign of what rounds to zero."""
    text = re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}")
    return text.lstrip("-") if float(text) == 0 else text


def interval(found: dict[str, float], digits: int = 3, scale: float = 1, unit: str = "") -> str:
    """`.813 (.801 to .824)`, of a mean or a ratio with its bounds; `.813` where no bounds were kept."""
    mean = found["mean"] if "mean" in found else found["ratio"]
    if "low" not in found:
        return number(scale * mean, digits) + unit
    value, low, high = (number(scale * part, digits) for part in (mean, found["low"], found["high"]))
    return f"{value}{unit} ({low} to {high})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def few_picks(runs: Runs) -> str:
    """What u is worth, whatever an adapter makes of it."""
    arms = {
        "shipped": "random pairs, as in the model cards",
        "noise of each person": "pick noise of each person",
        "types": "eight types of people (a mixture of Gaussians)",
        "most telling": "most telling pairs (BALD)",
        "as the panel asks": "as the tab asks",
    }
    both = [runs["few_picks-pocket"], runs["few_picks-flow"]]

    def cell(found: dict[str, Any]) -> str:
        wins, own = (value if isinstance(value, float) else value["mean"] for value in found.values())
        return f"{number(wins)}, {number(own)}"

    rows = [[words, *(cell(one[arm][n]) for one in both for n in ("2", "4", "8"))] for arm, words in arms.items()]
    ideal = [cell(one["idealised reader at 4"]) for one in both]
    rows.append(["idealised reader of random pairs", "", ideal[0], "", "", ideal[1], ""])
    header = ["wins, own vs another's after", "pocket: 2", "4", "8 picks", "pocket flow: 2", "4", "8 picks"]
    return table(header, rows)


def few_picks_painted(runs: Runs) -> str:
    """By the shipped adapters."""
    arms = {
        "shipped": "random pairs",
        "most telling": "most telling pairs (BALD)",
        "as the panel asks": "as the tab asks",
    }
    both = [runs["few_picks-pocket"], runs["few_picks-flow"]]
    rows = [
        [words, *(interval(x) for one in both for x in one[arm]["painted"].values())] for arm, words in arms.items()
    ]
    header = ["after four picks", "pocket: wins", "own vs another's", "pocket flow: wins", "own vs another's"]
    return table(header, rows)


def asking(runs: Runs) -> str:
    """Picks that asking well saves."""
    rows = []
    for size, found in runs["asking-accuracy"]["accuracy"].items():
        needed = (interval(found[arm]["picks_needed"], 0) for arm in ("most telling", "as the panel asks"))
        rows.append([f"{size} pairs", number(found["random"]["accuracy"]["16"]["mean"]), *needed])
    return table(["pool", "accuracy of 16 random picks", "picks BALD needs for it", "picks the tab needs"], rows)


def asking_painted(runs: Runs) -> str:
    """Wins against the base."""
    arms = {"random": "at random", "most telling": "BALD", "as the panel asks": "as the tab asks"}
    found = {arm: runs["asking-painted"]["painted"][arm]["win_rate"] for arm in arms}
    counts = sorted({n for rates in found.values() for n in rates}, key=int)
    rows = [[n, *(interval(found[arm][n]) if n in found[arm] else "" for arm in arms)] for n in counts]
    return table(["picks", *arms.values()], rows)


def duels(runs: Runs) -> str:
    """Duels beside random pairs."""
    duel, random = (runs["asking-duels"]["duel"][way] for way in ("duel", "random pairs"))
    rows = [
        [n, interval(rate), interval(random["win_rate"][n]), interval(duel["less_random"][n])]
        for n, rate in duel["win_rate"].items()
    ]
    return table(["picks", "wins after duels", "after random pairs", "difference"], rows)


def looks(runs: Runs) -> str:
    """What is called sure."""
    rows = []
    for world, words in (("pocket", "the pocket model's"), ("edits", "real ones with known edits")):
        found = runs["looks"][world]["reporting"]
        right = found["by threshold"][str(runs["looks"]["settings"]["sure"])]["right"]
        counts = [
            sum(found["random"][k][n]["sure"]["mean"] for k in found["random"]) / len(found["random"])
            for n in ("16", "32")
        ]
        rows.append([words, interval(right), ", ".join(number(count, 2) for count in counts)])
    header = ["pictures", "sure sentences right", "sure sentences a person, after 16 and 32 random pairs"]
    return table(header, rows)


def choices(runs: Runs) -> str:
    """Grids after as many answers."""
    arms, found = (*SHOWN, "best of 9, read as pairs"), runs["choices"]["choices"]
    rows = [[n, *(interval(found[arm][n]["accuracy"]) for arm in arms)] for n in ("4", "8", "16")]
    return table(["answers", *arms], rows)


def choices_looked_at(runs: Runs) -> str:
    """Grids after as many pictures looked at."""
    found = runs["choices"]["choices"]
    rows = [
        [str(most), *(interval(found[arm][str(most // shown)]["accuracy"]) for arm, shown in SHOWN.items())]
        for most in (36, 72, 144)
    ]
    return table(["pictures looked at", *SHOWN], rows)


def choices_sure(runs: Runs) -> str:
    """How sure each reading makes."""
    found, statements = runs["choices"]["ideal reader"], runs["choices"]["statements"]
    rows = [[arm, interval(found[arm]["16"]["covered"]), interval(statements[arm]["right"])] for arm in found]
    header = ["answers read as", "true log-odds within the 90 % interval, after 16", "sure sentences right, after 8"]
    return table(header, rows)


def moodboards(runs: Runs) -> str:
    """Loved pictures."""
    found = runs["choices"]["moodboard"]
    rows = [
        [loved, against.removeprefix("against ").removesuffix(" others"), interval(one["accuracy"])]
        for against, by_loved in found.items()
        for loved, one in by_loved.items()
    ]
    return table(["loved pictures", "others, among which they are shared out", "accuracy"], rows)


def sorting(runs: Runs) -> str:
    """The first of a batch."""
    whose = {
        "own, 4 picks": "own taste, 4 picks",
        "own, 16 picks": "own taste, 16 picks",
        "another's, 16 picks": "another's, 16 picks",
        "everybody's": "everybody's (no picks)",
        "the true best": "the true best",
    }
    found = runs["sorting"]["best_of"]
    rows = [[words, *(interval(found[size][name]["wins"]) for size in found)] for name, words in whose.items()]
    return table(["", *(f"best of {size}" for size in found)], rows)


def real_people(runs: Runs) -> str:
    """Accuracy on real people's held-out picks."""
    counts = ("0", "4", "8", "16")
    rows = []
    for run in ("encoders-efficientnet", "encoders-pocket"):
        found = runs[run]["reporting"]["taste encoder"]
        rows.append([runs[run]["settings"]["tower"], *(interval(found[n]) for n in counts)])
    ranking = runs["encoders-efficientnet"]["reporting"]["others' ranking"]
    rows.append(["the others' ranking of the same pictures", interval(ranking), "", "", ""])
    return table(["tower", "nobody known", "4 picks", "8", "16"], rows)


def simulated_people(runs: Runs) -> str:
    """Simulated people on real pictures."""
    arms = {
        arm: found for arm, found in runs["encoders-simulated"].items() if isinstance(found, dict) and "16" in found
    }
    rows = [[arm, *(interval(found[n]) for n in ("0", "4", "16"))] for arm, found in arms.items()]
    return table(["taste encoder", "nobody known", "4 picks", "16"], rows)


def words(runs: Runs) -> str:
    """Every way to paint by words."""
    rows = []
    for way, found in runs["text_taste"].items():
        if "reward" in found:
            name, _, strength = way.partition(", strength ")
            name = name.replace(", unconditional none", "").replace("unconditional opposite", OPPOSITE)
            figures = number(found["reward"], 2), number(found["objects_f1_loss"]["mean"])
            rows.append([name, strength, interval(found["wins_vs_base"]), *figures, number(found["out_of_range"], 2)])
    return table(["way", "strength", "wins vs base", "reward, SD", "objects lost, F1", "out of range"], rows)


def adapter_kinds(world: str) -> Callable[[Runs], str]:
    """Kinds of user adapter in one world."""

    def made(runs: Runs) -> str:
        rows = []
        for kind, found in runs[f"adapter_kinds-{world}"].items():
            if kind != "settings":
                rows.append(
                    [
                        "low-rank, K 16" if kind == "low rank" else kind,
                        f"{round(found['parameters'], -3):,}",
                        *(interval(found[name]) for name in ("wins_vs_base", "own_vs_other", "reward_vs_base")),
                        number(found["objects_f1_loss"]["mean"]),
                        number(found["out_of_range"], 2),
                    ]
                )
        header = ["kind", "numbers", "wins vs base", "own vs another's", "reward above the base"]
        return table([*header, "objects lost, F1", "out of range"], rows)

    return made


def self_training(runs: Runs) -> str:
    """What each switch of the objective does."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for run, report in runs.items():
        if run.startswith("self_training-"):
            settings = report["settings"]
            more = f", {settings['steps']} steps" * (settings["steps"] != 120)
            more += f", rate {number(settings['rate'])}" if settings.get("rate") else ""
            if settings["encoder"] == "shipped":
                more += ", shipped encoder" + ", nothing shared" * settings["nothing_shared"]
            for arm, found in report.items():
                if arm != "settings":
                    rows.setdefault(SWITCHES.get(arm, arm) + more, {})[settings["world"]] = found["4 picks"]
    worlds, told = ("pocket-flow", "pocket"), ("wins_vs_base", "own_vs_other")
    cells = [
        [arm, *(interval(found[world][what]) if world in found else "" for world in worlds for what in told)]
        for arm, found in rows.items()
    ]
    header = ["pocket flow: wins vs base", "own vs another's", "pocket (U-Net): wins vs base", "own vs another's"]
    return table(["", *header], cells)


def asked_training(runs: Runs) -> str:
    """Adapters trained with nothing but the checkpoint, by picks of random pairs and by those that the tab asks."""
    rows = []
    for encoder in ("shipped", "own"):
        for short, world in WORLDS.items():
            report = runs[f"asked_training-{short}-{encoder}"]
            found, steps = report["soft labels"], report["settings"]["steps"]
            for picks, whose in (("4 picks", "random pairs"), ("4 asked picks", "as the tab asks")):
                told = [interval(found[picks][what]) for what in ("wins_vs_base", "own_vs_other", "reward_vs_base")]
                row = [
                    f"{world}, {encoder} encoder, {steps} steps",
                    number(found["gain"], 2),
                    number(found["picked"], 2),
                ]
                rows.append([*row, whose, *told, number(found[picks]["out_of_range"], 2)])
    header = ["adapter", "gain", "simulated people pick it", "four picks", *SEEN]
    return table(header, rows)


def gains(runs: Runs) -> str:
    """Strength 1 at each gain that it might have had."""
    rows = []
    for gain, found in runs["asked_training-flow-gains"]["soft labels"]["gains"].items():
        row = [number(float(gain), 2)]
        if (judged := found.get("4 asked picks")) is None:  # the base
            row += ["", "", "", ""]
        else:
            row.append(number(found["picked"], 2))
            row += [number(judged[what]["mean"]) for what in ("wins_vs_base", "own_vs_other", "reward_vs_base")]
        rows.append([*row, number((judged or found)["out_of_range"], 2)])
    return table(["gain", "simulated people pick it", *SEEN], rows)


def steps_to_learn(runs: Runs) -> str:
    """By steps what plain user-DPO and the defaults learned."""
    rows = []
    for short, counts in (("flow", (60, 120, 240)), ("pocket", (60,))):
        for steps in counts:
            for arm, name in (("plain user-DPO", "plain user-DPO"), ("soft labels", "defaults")):
                found = runs[f"asked_training-{short}-{steps}"][arm]["4 asked picks"]
                told = (interval(found[what]) for what in ("wins_vs_base", "own_vs_other", "reward_vs_base"))
                rows.append([f"{WORLDS[short]}, {steps} steps", name, *told])
    return table(["", "", *SEEN[:3]], rows)


def training(runs: Runs) -> str:
    """Beside diffusers' script."""
    found, names = runs["training"], ("simulated", "real", "simulated checkpointed", "real checkpointed")
    speed = found["pairs_per_second_vs_diffusers"]
    whole, above = (found[f"peak_{what}_vs_diffusers"] for what in ("memory", "without_imports"))
    rows = [
        ["pairs per second, of theirs", *(interval(speed[name], 2) for name in names)],
        ["peak memory, of theirs", *(number(whole[name], 2) for name in names)],
        ["peak memory without the libraries", *(number(above[name], 2) for name in names)],
        ["reading latents from disk, of a step", f"{number(100 * found['loading_share'], 3)} %", "", "", ""],
    ]
    whose = ["simulated people's picks", "real people's, with the contrast"]
    return table(["", *whose, *(f"{who}; both with gradient checkpointing" for who in whose)], rows)


def pair_index(runs: Runs) -> str:
    """Large preference sets."""
    rows = [
        [
            f"{one['rows']:,}",
            f"{one['megabytes']:,.0f} MB",
            f"{1000 * one['fingerprint_seconds']:.0f} ms",
            f"{number(one['first_pair_seconds'], 2)} s",
            f"{round(one['indexed_rows_per_second'], -2):,.0f}",
            f"{one['peak_mb_above_start']:.0f} MB",
            f"{number(one['split_seconds'], 2)} s",
            f"{one['peak_mb_above_start_at_the_end']:.0f} MB",
        ]
        for run in ("pair_index-rows", "pair_index-pictures")
        for one in runs[run].values()
    ]
    header = [
        "rows",
        "file",
        "fingerprint",
        "first pair, with loading pyarrow",
        "indexed rows a second",
        "peak",
        "split",
    ]
    return table([*header, "peak with split and second pass"], rows)


def u_nets(runs: Runs) -> str:
    """A person in SD1.5 and SDXL."""
    both = [runs["sampling-sd15"], runs["sampling-sdxl"]]

    def row(words: str, figure: Callable[[dict[str, Any]], str]) -> list[str]:
        return [words, *map(figure, both)]

    def share(one: dict[str, Any]) -> str:
        return interval(one["inside_vs_step"], 2, 100, " %")

    def milliseconds(one: dict[str, Any]) -> str:
        return f"{one['milliseconds']['inside our patches']:.0f} of {one['milliseconds']['plain step']:,.0f}"

    rows = [
        row("time inside our patches, of a step", share),
        row("the same in ms, of a step of", milliseconds),
        row("the same, of what IPAdapter_plus adds", lambda one: interval(one["inside_vs_peer"], 2)),
        row("... per layer (it leaves the middle block out)", lambda one: interval(one["inside_per_layer_vs_peer"], 2)),
        row("preparation once per run, of a step", lambda one: interval(one["preparation_vs_step"], 2)),
        row("whole personal step, of a plain one", lambda one: interval(one["step_vs_plain"], 2)),
    ]
    return table(["", "SD1.5", "SDXL"], rows)


def reading(runs: Runs) -> str:
    """What reading a person costs."""
    found = runs["embedding"]
    again = found["cached_milliseconds"]
    rows = [
        ["four new pairs, of an SDXL step of 512 px", interval(found["embedding_vs_step"], 2)],
        ["the same pairs again", interval({**again, "mean": again["median"]}, 0, unit=" ms")],
    ]
    return table(["reading a person from", ""], rows)


def low_rank(runs: Runs) -> str:
    """The low-rank branch in full-width blocks."""
    rows = []
    for run, report in runs.items():
        family, _, dtype = run.removeprefix("sampling-").rpartition("-")
        for found in report.values() if family in FAMILIES else ():
            shares = interval(found["inside_vs_step"], 2, 100, " %"), interval(found["inside_vs_bypass"], 2)
            steps = (interval(found[name]) for name in ("step_vs_plain", "step_vs_bypass"))
            rows.append([f"{FAMILIES[family]}, {dtype}", f"{found['settings']['cfg']:g}", *steps, *shares])
    header = ["", "cfg", "step, of a plain one", "step, of the LoRA's"]
    return table([*header, "time inside the branch, of a step", "the same, of the LoRA's"], rows)


def startup(runs: Runs) -> str:
    """What the pack adds to ComfyUI's start."""
    adds, whole = runs["startup"]["adds"], runs["startup"]["whole"]
    rows = [
        ["the processor's time that loading the pack adds", interval({**adds, "mean": adds["seconds"]}, unit=" s")],
        ["a whole start, of one with a pack that does nothing", interval(whole)],
    ]
    return table(["", ""], rows)


TABLES: dict[str, Callable[[Runs], str]] = {
    "few picks": few_picks,
    "few picks, painted": few_picks_painted,
    "asking": asking,
    "asking, painted": asking_painted,
    "duels": duels,
    "looks": looks,
    "choices": choices,
    "choices, by pictures looked at": choices_looked_at,
    "choices, how sure": choices_sure,
    "moodboards": moodboards,
    "sorting": sorting,
    "real people": real_people,
    "simulated people": simulated_people,
    "words": words,
    "kinds of user adapter, pocket flow": adapter_kinds("flow"),
    "kinds of user adapter, pocket": adapter_kinds("pocket"),
    "self-training": self_training,
    "asked training": asked_training,
    "gains": gains,
    "steps to learn": steps_to_learn,
    "training": training,
    "pair index": pair_index,
    "u-nets": u_nets,
    "reading": reading,
    "low rank": low_rank,
    "startup": startup,
}
"""By the names that stand in the page."""
