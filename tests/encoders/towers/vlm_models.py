"""Vision-language models of transformers' own classes, tiny, of random weights, with processors made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = "the style of this picture is warm muted calm light line user profile: likes pair chosen rejected describe"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>", "<image>", "<video>"]
PADS = {"llava_onevision": ("<image>", "<video>")}
KINDS = ("qwen2_5_vl", "qwen3_vl", "llava_onevision")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> Any:
    """Byte-level BPE, trained on a line of words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL)
    made.train_from_iterator([WORDS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL,
    )


def write_vlm(folder: Path, kind: str, *, seed: int = 0, layers: int = 4, dtype: torch.dtype = torch.float32) -> Path:
    """A folder as `save_pretrained` makes it."""
    words = tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(kind, words, layers)
        for name, parameter in model.named_parameters():
            if "norm" not in name:  # at its usual .02 a model of width 32 hardly moves its states
                torch.nn.init.normal_(parameter, std=0.15)
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    model.to(dtype).save_pretrained(folder)
    _processor(kind, words).save_pretrained(folder)
    return folder


def _ids(kind: str, words: Any) -> dict[str, int]:
    names = {"image": PADS.get(kind, SPECIAL[5:7])[0], "video": PADS.get(kind, SPECIAL[5:7])[1]}
    if kind == "llava_onevision":
        return {f"{what}_token_index": words.convert_tokens_to_ids(name) for what, name in names.items()}
    names |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    return {f"{what}_token_id": words.convert_tokens_to_ids(name) for what, name in names.items()}


def _model(kind: str, words: Any, layers: int) -> Any:
    import transformers as hf

    text = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "bos_token_id": words.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": words.eos_token_id,
    }
    vision: dict[str, Any]
    if kind == "qwen2_5_vl":
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
        vision |= {"fullatt_block_indexes": [1]}
        rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
        config = hf.Qwen2_5_VLConfig(text_config=text | rope, vision_config=vision, **_ids(kind, words))
        return hf.Qwen2_5_VLForConditionalGeneration(config)
    if kind == "qwen3_vl":
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
        config = hf.Qwen3VLConfig(text_config=text | rope | {"head_dim": 16}, vision_config=vision, **_ids(kind, words))
        return hf.Qwen3VLForConditionalGeneration(config)
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "patch_size": 14}
    vision |= {"image_size": 28, "num_hidden_layers": 2, "num_attention_heads": 2, "vision_use_head": False}
    config = hf.LlavaOnevisionConfig(
        text_config=text | {"model_type": "qwen2"},
        vision_config=vision,
        image_grid_pinpoints=[[28, 28], [28, 56], [56, 28]],
        **_ids(kind, words),
    )
    return hf.LlavaOnevisionForConditionalGeneration(config)


def _processor(kind: str, words: Any) -> Any:
    import transformers as hf

    pad = PADS.get(kind, SPECIAL[5:7])[0]
    block = pad if kind == "llava_onevision" else f"<|vision_start|>{pad}<|vision_end|>"
    template = TEMPLATE.replace("IMAGE", block)
    if kind == "llava_onevision":
        pictures = hf.LlavaOnevisionImageProcessor(
            size={"height": 28, "width": 28}, image_grid_pinpoints=[[28, 28], [28, 56], [56, 28]]
        )
        videos = hf.LlavaOnevisionVideoProcessor(size={"height": 28, "width": 28})
        return hf.LlavaOnevisionProcessor(
            pictures,
            words,
            videos,
            num_image_tokens=4,
            vision_feature_select_strategy="full",
            chat_template=template,
        )
    size = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
    if kind == "qwen2_5_vl":
        pictures, videos = hf.Qwen2VLImageProcessor(size=size), hf.Qwen2VLVideoProcessor()
        return hf.Qwen2_5_VLProcessor(pictures, words, videos, chat_template=template)
    mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16}
    pictures = hf.Qwen2VLImageProcessor(size=size, **mean)
    return hf.Qwen3VLProcessor(pictures, words, hf.Qwen3VLVideoProcessor(), chat_template=template)
