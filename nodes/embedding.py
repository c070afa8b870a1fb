"""Stage 2: user embeddings, made of preference pairs, kept, mixed, and put together to a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io, ui

from ..ppd.encoders.statements import Statement, in_words
from ..ppd.enough import Known, enough
from ..ppd.files import file_digest
from ..ppd.messages import listed
from ..ppd.pairs import PreferencePair, counted
from ..ppd.pictures import PreferenceError
from ..ppd.privacy import MOST_EPSILON, Guarantee
from ..ppd.user_embedding import UserEmbedding as Embedding
from ..ppd.user_embedding import blend, null_user, release
from . import folders, guides
from .encoders import encoder_digest, load_encoder, taste_encoders
from .sockets import CATEGORY, PairsOf, PreferencePairs, UserEmbedding, one_person, people_of


class UserEmbeddingEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UserEmbeddingEncoder",
            display_name="Encode User Embedding",
            category=CATEGORY,
            description="Turns preference pairs into a user embedding, the posterior of a Bayesian Bradley-Terry "
            "model: which differences between pictures made the person choose, starting from what people are like.",
            search_aliases=["preference", "taste", "profile", "user embedding", "fabric", "personalize"],
            inputs=[
                PreferencePairs.Input(
                    "pairs", optional=True, tooltip="The person's picks. Four pairs already tell a good part."
                ),
                io.Combo.Input(
                    "encoder",
                    options=taste_encoders(),
                    tooltip="Taste encoder that reads the pictures. Embeddings and adapters fit if made for the same "
                    "one.",
                ),
                io.Boolean.Input(
                    "skip_bad",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Leave out pairs whose picture cannot be read and name them in the report, instead of "
                    "stopping at the first.",
                ),
            ],
            outputs=[
                UserEmbedding.Output(display_name="user_embedding", tooltip="The person's taste as a vector."),
                io.String.Output(display_name="report", tooltip="What is known of the person, and how surely."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, encoder: str, **constants: Any) -> str:
        return encoder_digest(encoder)

    @classmethod
    def execute(
        cls,
        encoder: str,
        skip_bad: bool = False,
        pairs: list[PreferencePair] | None = None,
    ) -> io.NodeOutput:
        if pairs is None:  # not the average person, who is what no picks are
            embedding = null_user(load_encoder(encoder).encode([]))
            report = "No pairs are connected: nobody's taste, so pictures stay plain."
            return io.NodeOutput(embedding, report, ui=ui.PreviewText(report))
        bar = comfy.utils.ProgressBar(max(1, 2 * len(pairs)))

        def progress(done: int, total: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, total)

        skipped: list[PreferenceError] = []
        reader = load_encoder(encoder)
        told = reader.read(pairs, on_bad="skip" if skip_bad else "raise", skipped=skipped, progress=progress)
        embedding = reader.encode_told(pairs, told)
        assert embedding.covariance is not None
        known = enough(reader.prior, embedding.covariance)
        person = pairs.person if isinstance(pairs, PairsOf) else None
        embedding, held = guides.held_back(person, embedding, reader)
        report = "\n".join([report_of(embedding, known, reader.statements(*told), skipped), *held])
        return io.NodeOutput(embedding, report, ui=ui.PreviewText(report))


def report_of(embedding: Embedding, known: Known, found: list[Statement], skipped: list[PreferenceError]) -> str:
    """What the encoder learned of a person, in lines for people; the facts behind it last."""
    is_somebody = embedding.pairs or skipped
    picks = counted(embedding.pairs, "pick")
    who = f"Known from {picks}." if is_somebody else "No picks: this is the average person."
    lines = [f"{who} {known.told()}", *in_words(found)]
    facts = f"read by {embedding.encoder}, {embedding.length_told}"
    if embedding.noise > 1:
        lines.append("Some picks contradict each other, so each tells less.")
        facts += f", picks {embedding.noise:g} times as noisy as most people's"
    if skipped:
        lines += [f"Left out {len(skipped)}:", *listed(skipped)]
    lines.append(f"({facts}.)")
    return "\n".join(lines)


def epsilon_input() -> io.Float.Input:
    """How much noise hides each pick in what is shared, the same in every node that has it."""
    return io.Float.Input(
        "epsilon",
        default=0.0,
        min=0.0,
        max=MOST_EPSILON,
        step=0.5,
        optional=True,
        advanced=True,
        tooltip="Differential privacy: noise that hides every single pick. Smaller is more private and less accurate: "
        "8 costs a little with 16 picks, 2 needs 64; 0 is off. Each save reveals more: share one file only.",
    )


def shared(embedding: Embedding, epsilon: float) -> Embedding:
    """The embedding itself at epsilon 0, else what may be shared of it."""
    return release(embedding, Guarantee(epsilon)) if epsilon else embedding


def provenance(embedding: Embedding) -> str:
    """What a file or a code says of itself, for people to read."""
    if embedding.guarantee is None:
        return f"{counted(embedding.pairs, 'pick')} up to {embedding.created}, read by {embedding.encoder}."
    picks = f"About {counted(embedding.pairs, 'pick')} up to {embedding.created}, read by {embedding.encoder}"
    return f"{picks}; {embedding.guarantee.told}."


class PPD_UserEmbeddingSample(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_UserEmbeddingSample",
            display_name="Sample User Embedding",
            category=CATEGORY,
            description="One random draw from the posterior over the user embedding (Thompson sampling): a taste that "
            "may be the person's.",
            search_aliases=["thompson", "explore", "variation", "preference", "taste"],
            inputs=[
                UserEmbedding.Input(
                    "user_embedding", optional=True, tooltip="The posterior, from Encode User Embedding."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    optional=True,
                    min=0,
                    max=0x7FFFFFFF,
                    control_after_generate=True,
                    tooltip="Another seed, another draw. After many picks all draws are much alike.",
                ),
            ],
            outputs=[
                UserEmbedding.Output(
                    display_name="user_embedding", tooltip="The draw, a user embedding without covariance."
                )
            ],
        )

    @classmethod
    def execute(cls, user_embedding: Embedding | tuple[Embedding, ...] | None = None, seed: int = 0) -> io.NodeOutput:
        if user_embedding is None:  # a node before is bypassed: nobody's taste, and pictures stay plain
            return io.NodeOutput(None)
        person = one_person(user_embedding, "draw from")
        return io.NodeOutput(person if person.is_null else person.draw(seed))


class PPD_UserEmbeddingSave(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_UserEmbeddingSave",
            display_name="Save User Embedding",
            category=CATEGORY,
            description="Saves a user embedding in models/user_embeddings. No picture, prompt or name is in it.",
            search_aliases=["save taste", "save profile", "export user"],
            inputs=[
                UserEmbedding.Input("user_embedding", tooltip="The embedding to save."),
                io.String.Input(
                    "filename_prefix", default="person", optional=True, tooltip="The file's name; folders with /."
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    optional=True,
                    tooltip="Write <name>.safetensors anew. Otherwise each save gets its own number.",
                ),
                io.Boolean.Input(
                    "with_covariance",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Also save the posterior covariance, which says how sure each direction is. It reveals "
                    "something of the pictures: do not share it.",
                ),
                epsilon_input(),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        user_embedding: Embedding,
        filename_prefix: str = "person",
        overwrite: bool = False,
        with_covariance: bool = False,
        epsilon: float = 0.0,
    ) -> io.NodeOutput:
        embedding = shared(one_person(user_embedding, "save"), epsilon)
        root = folder_paths.get_folder_paths("user_embeddings")[0]
        folder, name, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, root)
        path = Path(folder) / (f"{name}.safetensors" if overwrite else f"{name}_{counter:05}_.safetensors")
        embedding.save(path, with_covariance=with_covariance)
        hidden = "" if embedding.guarantee is None else f" In it {embedding.guarantee.told}."
        about = "" if embedding.guarantee is None else "about "
        report = f"Saved {path.relative_to(root)} with {about}{embedding.pairs} pairs behind it.{hidden}"
        return io.NodeOutput(ui=ui.PreviewText(report))


class PPD_UserEmbeddingLoad(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_UserEmbeddingLoad",
            display_name="Load User Embedding",
            category=CATEGORY,
            description="Loads a user embedding from ComfyUI's models/user_embeddings.",
            search_aliases=["load taste", "load profile", "import user"],
            inputs=[
                io.Combo.Input(
                    "user_embedding",
                    options=folder_paths.get_filename_list("user_embeddings"),
                    tooltip="A file of models/user_embeddings, as Save User Embedding writes it.",
                )
            ],
            outputs=[
                UserEmbedding.Output(display_name="user_embedding", tooltip="The person's taste as a vector."),
                io.String.Output(display_name="report", tooltip="What the file says of itself."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, user_embedding: str) -> str:
        return file_digest(folders.model_file("user_embeddings", user_embedding))

    @classmethod
    def execute(cls, user_embedding: str) -> io.NodeOutput:
        embedding = Embedding.load(folders.model_file("user_embeddings", user_embedding))
        report = provenance(embedding)
        return io.NodeOutput(embedding, report, ui=ui.PreviewText(report))


class PPD_UserEmbeddingBlend(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_UserEmbeddingBlend",
            display_name="Blend User Embeddings",
            category=CATEGORY,
            description="Linear blend of two user embeddings: the taste between two people.",
            search_aliases=["mix taste", "average users", "interpolate"],
            inputs=[
                UserEmbedding.Input("first", optional=True, tooltip="User embedding at weight 0."),
                UserEmbedding.Input("second", optional=True, tooltip="User embedding at weight 1."),
                io.Float.Input(
                    "weight",
                    default=0.5,
                    optional=True,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0 is the first, 1 the second, 0.5 the middle.",
                ),
            ],
            outputs=[UserEmbedding.Output(display_name="user_embedding", tooltip="The user embedding in between.")],
        )

    @classmethod
    def execute(
        cls, first: Embedding | None = None, second: Embedding | None = None, weight: float = 0.5
    ) -> io.NodeOutput:
        if first is None or second is None:  # the one that is connected, since there is nothing to blend it with
            return io.NodeOutput(first if second is None else second)
        return io.NodeOutput(blend(one_person(first, "blend"), one_person(second, "blend"), weight))


class PPD_UserEmbeddingBatch(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        person = UserEmbedding.Input("person", tooltip="A user embedding, or a batch of them.")
        return io.Schema(
            node_id="PPD_UserEmbeddingBatch",
            display_name="Batch User Embeddings",
            category=CATEGORY,
            description="Several user embeddings for one batch of latents: number i for latent i, the last one for "
            "the rest.",
            search_aliases=["several users", "user list", "compare people"],
            inputs=[
                io.Autogrow.Input(
                    "people",
                    template=io.Autogrow.TemplatePrefix(person, prefix="person_", min=1, max=64),
                    tooltip="User embeddings in the order of the latents.",
                )
            ],
            outputs=[UserEmbedding.Output(display_name="user_embedding", tooltip="The user embeddings, as one batch.")],
        )

    @classmethod
    def execute(cls, people: io.Autogrow.Type) -> io.NodeOutput:
        known = [person for value in people.values() for person in people_of(value)]
        if not known:
            return io.NodeOutput(None)
        nobody = (null_user(known[0]),)  # a bypassed node's place is kept, and its latent painted plain
        return io.NodeOutput(tuple(person for value in people.values() for person in people_of(value) or nobody))
