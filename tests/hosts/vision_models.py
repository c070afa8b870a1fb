"""ComfyUI's vision models and text encoders that see, of its own classes at tiny configurations, of random weights."""

from __future__ import annotations

from functools import cache, partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch

if find_spec("comfy"):
    import comfy.clip_vision
    import comfy.sd
    import comfy.text_encoders.qwen3vl
    import comfy.text_encoders.qwen_image
    import comfy.text_encoders.qwen_vl

SIDE = 56
VIT = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "num_channels": 3,
    "image_size": SIDE,
    "patch_size": 14,
    "intermediate_size": 48,
    "hidden_act": "gelu",
}
DINO2 = {"layer_norm_eps": 1e-6, "use_swiglu_ffn": False, "model_type": "dinov2"}
DINO3 = {"layer_norm_eps": 1e-5, "num_register_tokens": 4, "rope_theta": 100.0, "mlp_bias": True, "patch_size": 14}
VISION = {
    "clip": VIT | {"model_type": "clip_vision_model", "projection_dim": 12},
    "siglip": VIT | {"model_type": "siglip_vision_model", "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    "siglip2": VIT | {"model_type": "siglip2_vision_model", "image_size": -1, "num_patches": 16},
    "dinov2": VIT | DINO2,
    "dinov3": VIT | DINO3 | {"model_type": "dinov3"},
}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
TEXT |= {"num_attention_heads": 2, "num_key_value_heads": 1}
EYES = {"hidden_size": 32, "intermediate_size": 48, "depth": 2}
QWEN35: dict[str, Any] = TEXT | {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
}
QWEN35 |= {"linear_value_head_dim": 8, "mrope_section": [1, 1, 0], "layer_types": ["linear_attention"] * 3}
QWEN35["layer_types"] = [*QWEN35["layer_types"], "full_attention"]


def vision_model(kind: str, seed: int = 0) -> Any:
    """A CLIP_VISION."""
    model = comfy.clip_vision.ClipVisionModel(VISION[kind])
    draw(model.model, seed)
    return model


def text_encoder(kind: str, monkeypatch: Any, seed: int = 0) -> Any:
    """A CLIP: "qwen25" is Qwen-Image's, "qwen3vl" and "krea2" are Qwen3-VL 4B, read at one layer or several at once,
    "qwen35" and "gemma4" have tokenizers made here.
    """
    options: dict[str, Any] = {"dtype": torch.float32}
    if kind == "qwen25":
        eyes = partial(
            small_eyes, comfy.text_encoders.qwen_vl.Qwen2VLVisionTransformer, hidden_size=32, intermediate_size=48
        )
        monkeypatch.setattr(comfy.text_encoders.qwen_vl, "Qwen2VLVisionTransformer", eyes)
        target = comfy.text_encoders.qwen_image.te(), comfy.text_encoders.qwen_image.QwenImageTokenizer
        options["qwen25_7b_model_config"] = TEXT
    elif kind == "gemma4":
        target = gemma4()
    elif kind == "qwen35":
        target = qwen35(monkeypatch)
        options["qwen35_2b_model_config"] = QWEN35
    else:
        common = {"num_heads": 2, "num_position_embeddings": 16}
        monkeypatch.setattr(
            comfy.text_encoders.qwen3vl,
            "QWEN3VL_VISION_COMMON",
            comfy.text_encoders.qwen3vl.QWEN3VL_VISION_COMMON | common,
        )
        eye = EYES | {"deepstack_visual_indexes": [0]}
        monkeypatch.setitem(comfy.text_encoders.qwen3vl.QWEN3VL_VISION, "qwen3vl_4b", eye)
        options["qwen3vl_4b_model_config"] = TEXT
        if kind == "krea2":
            import comfy.text_encoders.krea2 as krea2

            monkeypatch.setattr(krea2, "KREA2_TAP_LAYERS", [1, 2, 3])
            target = krea2.te(), krea2.Krea2Tokenizer
        else:
            qwen = comfy.text_encoders.qwen3vl
            target = qwen.te(model_type="qwen3vl_4b"), _qwen3vl_words
    words = _tokenizer(target[1])
    made = SimpleNamespace(params={}, clip=target[0], tokenizer=lambda **_: words)
    clip = comfy.sd.CLIP(made, model_options=options, disable_dynamic=True)
    draw(clip.cond_stage_model, seed)
    return clip


def gemma4() -> tuple[Any, Any]:
    """Model and tokenizer class of a Gemma 4 without ears; the words come from a tokenizer.json made here."""
    import comfy.text_encoders.gemma4 as gemma

    vision = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision |= {"head_dim": 16, "position_embedding_size": 64}
    fields = {"head_dim": 16, "global_head_dim": 16, "vision_config": gemma.GEMMA4_VISION_31B_CONFIG | vision}
    fields |= {"hidden_size": 32}
    config: Any = partial(type("Config", (gemma.Gemma4_31B_Config,), fields), **TEXT)
    config.audio_config, config.hidden_size = None, 32
    variant = gemma._make_variant(config)
    marks = {"<|turn>": 105, "<turn|>": 106, "<|image>": 255999, "<|image|>": 258880, "<image|>": 258882}
    words = json_tokenizer(marks).encode()
    return gemma.gemma4_te(model_class=variant), lambda: variant.tokenizer(tokenizer_data={"tokenizer_json": words})


def qwen35(monkeypatch: Any) -> tuple[Any, Any]:
    """Model and tokenizer class of Qwen3.5, whose marks have the places that the model's code knows."""
    import comfy.text_encoders.qwen35 as qwen
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    monkeypatch.setitem(
        qwen.QWEN35_MODELS["qwen35_2b"], "vision", EYES | {"num_heads": 2, "num_position_embeddings": 16}
    )
    marks = {"<|endoftext|>": 248044, "<|im_start|>": 248045, "<|im_end|>": 248046, "<|vision_start|>": 248053}
    marks |= {"<|vision_end|>": 248054, "<|image_pad|>": 248056, "<think>": 248068, "</think>": 248069}
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json_tokenizer(marks)))
    monkeypatch.setattr("transformers.Qwen2Tokenizer.from_pretrained", lambda *_, **__: words)
    return qwen.te(), qwen.tokenizer()


def json_tokenizer(marks: dict[str, int]) -> str:
    """Bytes as words, and special marks at places of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = {letter: 1000 + place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet | marks, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(marks))
    return made.to_str()


def _qwen3vl_words() -> Any:
    return comfy.text_encoders.qwen3vl.tokenizer("qwen3vl_4b")()


@cache
def _tokenizer(make: Any) -> Any:
    """Made once: reading 150,000 words takes seconds."""
    return make()


def small_eyes(eyes: type, *, hidden_size: int, intermediate_size: int, **settings: Any) -> Any:
    """Qwen2.5-VL's eyes at a width that its language model does not ask for."""
    small = {"hidden_size": hidden_size, "intermediate_size": intermediate_size, "num_heads": 2, "num_layers": 2}
    return eyes(**(settings | small))


def draw(module: torch.nn.Module, seed: int) -> None:
    """Random weights: ComfyUI leaves them as the memory was."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("logit_scale"):  # not in the files
                continue
            noise = torch.randn(parameter.shape, generator=generator) * 0.15
            parameter.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
        for name, buffer in module.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.fill_(1.0)
