"""Where denoisers read the prompt's tokens, by ComfyUI's classes: what a text taste moves."""

from __future__ import annotations

from dataclasses import dataclass

TOKENS = "c_crossattn"


@dataclass(frozen=True)
class TextFamily:
    """Where a denoiser's conditions hold the prompt's tokens [B, ..., L, D], and whether it makes them itself of what
    the text encoder gives, as the conditions are prepared."""

    keys: tuple[str, ...] = (TOKENS,)
    adapts: bool = False


TEXTS: dict[str, TextFamily] = {
    **dict.fromkeys(
        (
            "UNetModel",
            "StageC",
            "Flux",
            "Chroma",
            "ChromaRadiance",
            "QwenImageTransformer2DModel",
            "MageFlowTransformer2DModel",
            "NextDiT",
            "NextDiTPixelSpace",
            "SingleStreamDiT",
            "MiniTrainDIT",
            "OpenAISignatureMMDITWrapper",
            "MMDiT",
            "WanModel",
            "HunyuanVideo",
            "Ideogram4Transformer2DModel",
            "LensTransformer2DModel",
            "ErnieImageModel",
            "OmniGen2Transformer2DModel",
            "BooguTransformer2DModel",
            "JoyImageTransformer3DModel",
            "Kandinsky5",
            "PixArtMS",
        ),
        TextFamily(),
    ),
    "Anima": TextFamily(adapts=True),
    "HiDreamImageTransformer2DModel": TextFamily((TOKENS, "encoder_hidden_states_llama3")),
}
"""By the name of ComfyUI's class of denoiser."""
