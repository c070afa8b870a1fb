"""A taste as a line of text, so that a shared workflow or a remote server needs no file."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..ppd.taste_code import PREFIX, PRIVATE_PREFIX, decode, encode
from ..ppd.user_embedding import UserEmbedding as Embedding
from .embedding import epsilon_input, provenance, shared
from .encoders import identities, reader_of
from .sockets import CATEGORY, UserEmbedding, one_person


class PPD_TasteCode(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_TasteCode",
            display_name="Taste from Code",
            category=CATEGORY,
            description="A user embedding from a taste code, a line of text that somebody sent.",
            search_aliases=["taste code", "personalize code", "profile code", "import taste", "midjourney"],
            inputs=[
                io.String.Input(
                    "code",
                    default="",
                    optional=True,
                    tooltip=f"What Taste to Code or the tab Taste gives: {PREFIX} or {PRIVATE_PREFIX} and letters. "
                    "Empty is the null user.",
                )
            ],
            outputs=[
                UserEmbedding.Output(
                    display_name="user_embedding",
                    tooltip="The user embedding, without its covariance: how sure it is no code holds.",
                ),
                io.String.Output(display_name="report", tooltip="What the code holds."),
            ],
        )

    @classmethod
    def execute(cls, code: str = "") -> io.NodeOutput:
        if not code.strip():
            report = "No code: nobody's taste, so pictures stay plain."
            return io.NodeOutput(None, report, ui=ui.PreviewText(report))
        embedding = from_code(code)
        report = provenance(embedding)
        return io.NodeOutput(embedding, report, ui=ui.PreviewText(report))


class PPD_TasteToCode(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_TasteToCode",
            display_name="Taste to Code",
            category=CATEGORY,
            description="A user embedding as a line of text to send or to paste. No picture, prompt or name is in it.",
            search_aliases=["taste code", "share taste", "export taste", "profile code"],
            inputs=[
                UserEmbedding.Input("user_embedding", tooltip="The user embedding to write down."),
                epsilon_input(),
            ],
            outputs=[io.String.Output(display_name="code", tooltip="For Taste from Code, here or elsewhere.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, user_embedding: Embedding | tuple[Embedding, ...], epsilon: float = 0.0) -> io.NodeOutput:
        code = encode(shared(one_person(user_embedding, "write as a code"), epsilon))
        return io.NodeOutput(code, ui=ui.PreviewText(code))


def from_code(code: str) -> Embedding:
    """The user embedding of a code, by the taste encoders that are here."""
    embedding = decode(code, identities().values())
    reader_of(embedding)
    return embedding
