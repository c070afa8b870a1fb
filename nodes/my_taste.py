"""A taste as one node, as a LoRA is one: finds who, their taste encoder, and the best adapter that the model has."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.sd
import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui

from ..ppd.adapters import AdapterConfig, config_of
from ..ppd.adapters.ip_adapter import STATE_WIDTH, layout_of, load_ip_adapter
from ..ppd.branch import Outcome, Scope, off_for_anybody, reason_to_be_off
from ..ppd.encoders.image_prompt import FEWEST, MOST, fit_to_taste
from ..ppd.families import FAMILIES
from ..ppd.files import read_shapes, stamp
from ..ppd.finished import finished_pictures
from ..ppd.hosts.comfyui import apply_user, load_adapter, manage_adapter
from ..ppd.hosts.comfyui_denoisers import check_model, family_of, widths_of
from ..ppd.pictures import Picture
from . import folders, run_notes, whose
from .adapter import adapter_file, adapters, scope_inputs, strength_input
from .encoders import encoder_digest, load_encoder, made_by, taste_encoders
from .forgetting import forgets
from .ip_adapter import image_features, ip_adapters
from .sockets import CATEGORY
from .taste_pairs import ALL, studies_like
from .whose import Taste
from .words import apply_words

IP_ADAPTERS = {"sd15": "ip-adapter_sd15.safetensors", "sdxl": "ip-adapter_sdxl_vit-h.safetensors"}
"""A published file for each family that has one, as models/ipadapter should hold it."""
PLAIN = "The plain picture"
EYES = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"


class PPD_MyTaste(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_MyTaste",
            display_name="My Taste",
            category=CATEGORY,
            description="Makes a model paint in somebody's taste, as a LoRA loader would: between loader and sampler. "
            "It finds the rest itself and says what it took, or what is missing; then the picture is the plain one.",
            search_aliases=["taste", "lora", "personalize", "style", "preference", "ipadapter", "midjourney"],
            inputs=[
                io.Model.Input("model", tooltip="The model to make personal. It is not changed."),
                whose.person_input("Whose taste, as answered in the tab Taste, or a taste file."),
                strength_input(),
                *scope_inputs(),
                whose.first_answers_input(),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The CLIP of the prompts. Where no adapter fits the model, prompts then lean to what the "
                    "person likes.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The personal model, for any sampler."),
                io.String.Output(
                    display_name="report", tooltip="What it took, or what is missing and where to put it."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, person: str | None = whose.people.TAB) -> bool | str:
        return whose.check(person)

    @classmethod
    def fingerprint_inputs(cls, person: str | None = whose.people.TAB, **constants: Any) -> str:
        return f"{whose.fingerprint(person)} {_what_is_here()}"

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        person: str = whose.people.TAB,
        strength: float = 1.0,
        layers: str = "default",
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        first_answers: int = ALL,
        clip: comfy.sd.CLIP | None = None,
    ) -> io.NodeOutput:
        scope, node = Scope(layers, start_percent, end_percent), cls.hidden.unique_id if cls.hidden else None
        if off := off_for_anybody(strength, scope):  # before anything is read or fitted in vain
            return _told(model, f"{PLAIN}: {off}.")
        taste = whose.read(person, cls.hidden.prompt if cls.hidden else None, first_answers)
        adapter, found = find_adapter(model, taste)
        told = run_notes.follow(node)
        if adapter is None:
            personal, lines = _by_words(model, clip, taste, strength, scope, found, told)
            lines += taste.notes
        else:
            personal = apply_user(model, adapter, [taste.embedding], strength, scope, told)
            if off := reason_to_be_off(adapter.model, [taste.embedding], strength, scope):
                first = f"{PLAIN}: {off}."
            else:
                used = min(strength, adapter.model.max_strength)
                first = f"Paints for {taste.told}, at strength {used:g}.{taste.advice}"
            lines = [
                first,
                f"Took {found}, and the taste encoder {taste.encoder or taste.embedding.encoder}.",
                *taste.notes,
            ]
        if lines[0].startswith(PLAIN):
            run_notes.show(node, lines[0], True)
        return _told(personal, "\n".join(lines))


def _by_words(
    model: ModelPatcher,
    clip: comfy.sd.CLIP | None,
    taste: Taste,
    strength: float,
    scope: Scope,
    missing: str,
    on_outcome: Callable[[Outcome], None],
) -> tuple[ModelPatcher, list[str]]:
    """Where no adapter is: prompts that lean, if their CLIP is connected; and what was done, and what is missing."""
    if clip is None:
        return model, [f"{PLAIN}: {missing}", "With the CLIP connected, prompts lean without an adapter."]
    try:
        model, words = apply_words(model, clip, [taste], strength, scope, on_outcome)
    except ValueError as error:  # there are no words for this taste, or the model reads none
        return model, [f"{PLAIN}: {missing}", str(error)]
    return model, [words, f"Words alone: {missing}"]


def _told(model: ModelPatcher, report: str) -> io.NodeOutput:
    return io.NodeOutput(model, report, ui=ui.PreviewText(report))


def find_adapter(model: ModelPatcher, taste: Taste) -> tuple[ModelPatcher | None, str]:
    """The best adapter that is here for a model and a taste, and what it is called; else None, and what is missing and
    where to put it. Trained ones come before IP-Adapters, of several of a kind the first by name."""
    known = {name: config_of(adapter_file(name)) for name in adapters()}
    fitting = {name: config for name, config in known.items() if config is not None and _fits(model, config)}
    for name, config in fitting.items():
        if config.encoder_hash == taste.embedding.encoder_hash:
            return load_adapter(adapter_file(name)), f"the user adapter {name}"
    family = family_of(model)
    if family in IP_ADAPTERS:
        return _find_ip_adapter(model, family, taste)
    if fitting:
        name, config = next(iter(fitting.items()))
        wanted, used = (_encoder_of(one.encoder, one.encoder_hash) for one in (config, taste.embedding))
        return None, (
            f"the user adapter {name} fits this model, but reads people by the taste encoder {wanted}, and "
            f"{taste.name} is read by {used}: choose the other one in the tab Taste, under More."
        )
    kind = FAMILIES[family].title if family else type(model.model.model_config).__name__
    return None, f"no adapter here paints for a person with {kind}. Sort by Taste works with every model."


def _encoder_of(tower: str, embedding_hash: str) -> str:
    """The name that lists show of a taste encoder; its tower's where it is not here."""
    return next(iter(made_by({embedding_hash})), tower)


def _find_ip_adapter(model: ModelPatcher, family: str, taste: Taste) -> tuple[ModelPatcher | None, str]:
    layouts = {name: layout_of(folders.model_file("ipadapter", name)) for name in sorted(ip_adapters())}
    wanted = family, widths_of(model)
    names = [name for name, one in layouts.items() if one and (one.family, one.widths) == wanted]
    eyes = [name for name in sorted(folder_paths.get_filename_list("clip_vision")) if _is_vit_h(name)]
    missing = ([] if names else [f"{IP_ADAPTERS[family]} in models/ipadapter"]) + (
        [] if eyes else [f"{EYES} in models/clip_vision"]
    )
    if missing:
        return None, (
            f"for {FAMILIES[family].title} an IP-Adapter and its image encoder are needed. Put {' and '.join(missing)}."
        )
    if taste.encoder is None:
        return None, (
            f"{taste.name} was read by the taste encoder {taste.embedding.encoder}, which is not here: put its folder "
            "into models/taste_encoders."
        )
    pictures, source = _pictures_for(taste)
    if len(pictures) < FEWEST:
        return None, (
            f"an IP-Adapter is fitted to {FEWEST} pictures or more of this model's, and there are {len(pictures)}: "
            "paint some more, or make studies with Paint Studies."
        )
    files = folders.model_file("ipadapter", names[0]), folders.model_file("clip_vision", eyes[0])
    fitted = _fitted(*files, taste.encoder, pictures, repr([*map(stamp, files)]) + encoder_digest(taste.encoder))
    return fitted, f"the IP-Adapter {names[0]} with {eyes[0]}, fitted to {len(pictures)} pictures of {source}"


@forgets
def forget(person: str) -> None:
    """Drop the last fitted IP-Adapter: it may be fitted on the person's questions."""
    _fitted.cache_clear()


@lru_cache(maxsize=1)
def _fitted(path: Path, eyes: Path, encoder: str, pictures: tuple[Path, ...], _stamps: str) -> ModelPatcher:
    """An IP-Adapter fitted to a taste encoder on pictures; the last one stays, for the next strength or pick."""
    published, vision = load_ip_adapter(path), comfy.clip_vision.load(str(eyes))
    if vision is None:
        raise ValueError(f"{eyes.name} is no CLIP vision model that ComfyUI knows: download it again.")
    told = whose.progress(2 * len(pictures))
    seen = image_features(published, vision)
    return manage_adapter(
        fit_to_taste(published, load_encoder(encoder), seen, [*map(Picture, pictures)], progress=told)
    )


def _pictures_for(taste: Taste) -> tuple[tuple[Path, ...], str]:
    """Pictures like the model's, and whose they are: the studies that the taste encoder was made of, the person's
    questions, or ComfyUI's output folder; the first that has enough, else what there is last."""
    assert taste.encoder is not None
    for name, _ in studies_like(taste.encoder):
        found = tuple(one.path for one in folders.pictures_in(f"datasets: {name}", MOST) if one.path is not None)
        if len(found) >= FEWEST:
            return found, f"the studies {name}"
    if taste.person is not None:
        store = folders.taste_store()
        digests = dict.fromkeys(digest for _, *pair in store.pictures_of(taste.person.id) for digest in pair)
        found = _steady([store.picture(digest) for digest in digests if store.has_picture(digest)])
        if len(found) >= FEWEST:
            return found, f"{taste.person.name}'s questions"
    _, output, _ = folders.finished_folder("output")
    return _steady([output / one.name for one in reversed(finished_pictures(output))]), "the output folder"


def _steady(oldest_first: list[Path]) -> tuple[Path, ...]:
    """The oldest 32, 64, 128, ... of pictures that come to be more, and of more than MOST as many, evenly: the same
    until twice as many are there, so that a workflow paints what it painted before the last picture or pick. All where
    there are too few."""
    if len(oldest_first) < FEWEST:
        return tuple(oldest_first)
    count = 1 << len(oldest_first).bit_length() >> 1
    return tuple(oldest_first[: count : max(1, count // MOST)])


def _fits(model: ModelPatcher, config: AdapterConfig) -> bool:
    try:
        check_model(model, config)
    except ValueError:
        return False
    return True


def _is_vit_h(name: str) -> bool:
    """Whether a file of models/clip_vision is CLIP-ViT-H-14, by the shapes in it."""
    if not name.endswith(".safetensors"):
        return False
    try:
        shapes, _ = read_shapes(folders.model_file("clip_vision", name), "CLIP vision model")
    except ValueError:
        return False
    return shapes.get("vision_model.embeddings.patch_embedding.weight", (0,))[0] == STATE_WIDTH


def _what_is_here() -> str:
    """Changes when a file comes or goes that may be taken. A hash, since it is written into saved pictures."""
    files = [adapter_file(name) for name in adapters()]
    files += [folders.model_file("ipadapter", name) for name in ip_adapters()]
    files += [folders.model_file("clip_vision", name) for name in folder_paths.get_filename_list("clip_vision")]
    found = [*taste_encoders(), *((path.name, stamp(path)) for path in files)]
    return sha256(repr(found).encode()).hexdigest()
