"""Taste to Text and Apply Taste to Conditioning, as nodes and inside the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ppd.encoders.encoder import TasteEncoder
from ppd.user_embedding import null_user

pytestmark = pytest.mark.comfyui


@pytest.fixture
def person(run):
    """Of the random encoder's two looks, cold / warm and dark / pale, known by ten picks."""
    pairs = run("PreferencePairLoader", preference_set="example: warm").result[0]
    embedding = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
    u = torch.tensor([[-3.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    return replace(embedding, u=u, pairs=10, covariance_factor=0.8 * torch.eye(6))


def know_all_words(clip):
    words = clip.cond_stage_model.clip_l.transformer.text_model.embeddings.token_embedding.weight
    with torch.inference_mode():
        words.copy_(torch.randn(words.shape, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def graph(run):
    """The pocket model, whose random CLIP knows the words here, and a sampler's other inputs."""
    import nodes

    model, clip, _ = run("PPD_PocketCheckpointLoader", checkpoint="pocket").result
    know_all_words(clip)
    with torch.inference_mode():
        positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a red boat", ""))
    settings = {"seed": 5, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return clip, {"model": model, "positive": positive, "negative": negative, **settings}


@torch.inference_mode()
def paint(sampler, model):
    import nodes

    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    return nodes.KSampler().sample(**{**sampler, "model": model}, latent_image=latent)[0]["samples"]


def test_a_taste_in_words(run, person):
    liked, disliked, instruction, report = run("PPD_TasteToText", user_embedding=person).result
    assert (liked, disliked) == ("cold, pale", "warm, dark")
    assert "likes: cold (sure), pale (likely). Avoid: warm (sure), dark (likely)." in instruction
    assert report.splitlines() == [
        "What The person by 10 picks likes, the strongest first:",
        "cold, not warm (sure, 100%)",
        "pale, not dark (likely, 89%)",
    ]
    assert run("PPD_TasteToText", user_embedding=person, prompt="a cat").result[0] == "a cat, cold, pale"
    assert run("PPD_TasteToText", user_embedding=person, prompt="a cat", most=1).result[0] == "a cat, cold"
    assert run("PPD_TasteToText", user_embedding=person, least_sure=0.95).result[0] == "cold"


def test_of_somebody_unknown_nothing_is_said(run, person):
    nobody = replace(null_user(person), covariance_factor=torch.eye(6))
    liked, disliked, instruction, report = run("PPD_TasteToText", user_embedding=nobody, prompt="a cat").result
    assert (liked, disliked, instruction) == ("a cat", "", "")
    assert report.startswith("Nothing is sure enough to be said of the average person yet. No picks are known yet")


def test_prompts_lean_and_strength_0_is_the_plain_picture(run, person, graph):
    clip, sampler = graph
    given = {"model": sampler["model"], "clip": clip, "user_embedding": person}
    model, report = run("PPD_ApplyTasteToConditioning", **given).result
    assert report == "Leans to cold, pale, for The person by 10 picks, at strength 1."
    plain = paint(sampler, sampler["model"])
    assert (paint(sampler, model) - plain).norm() > 1e-3 * plain.norm()
    model, report = run("PPD_ApplyTasteToConditioning", **given, strength=0.0).result
    assert report == "The prompt is as it is: strength is 0." and torch.equal(paint(sampler, model), plain)
    report = run("PPD_ApplyTasteToConditioning", **given, strength=-0.5).result[1]
    assert report == "Leans, away from what is liked, to warm, dark, for The person by 10 picks, at strength -0.5."
    given["user_embedding"] = null_user(person)
    model, report = run("PPD_ApplyTasteToConditioning", **given).result
    assert report == "The prompt is as it is: nobody's taste is connected." and torch.equal(
        paint(sampler, model), plain
    )
    with pytest.raises(ValueError, match="Expected a number as strength of the words, got nan"):
        run("PPD_ApplyTasteToConditioning", **given, strength=float("nan"))


def test_words_that_a_text_encoder_does_not_know_change_nothing(run, person):
    model, clip, _ = run("PPD_PocketCheckpointLoader", checkpoint="pocket").result
    personal, report = run("PPD_ApplyTasteToConditioning", model=model, clip=clip, user_embedding=person).result
    assert personal is model
    assert report == "The prompt is as it is: this model's CLIP does not know the words (cold, pale)."


def test_words_are_measured_once_for_each_look(run, person, graph, monkeypatch):
    clip, sampler = graph
    times = []
    encode = clip.encode_from_tokens_scheduled
    monkeypatch.setattr(clip, "encode_from_tokens_scheduled", lambda *args: times.append(1) or encode(*args))
    for strength in (0.5, 1.0, 2.0):
        run("PPD_ApplyTasteToConditioning", model=sampler["model"], clip=clip, user_embedding=person, strength=strength)
    assert len(times) == 2 * 2 * 4, "two looks with two sides and four prompts"


def test_the_personalized_denoiser_takes_words_alone_or_with_an_adapter(run, person, graph):
    clip, sampler = graph
    sampled = {**sampler, "latent_image": {"samples": torch.zeros(1, 4, 16, 16)}, "user_embedding": person}
    words, report = run("PersonalizedDenoiser", **sampled, clip=clip).result
    happened = "Personal were 2 of 2 calls of the model, in 1 of 1 prompts."
    assert report == f"Leans to cold, pale, for The person by 10 picks, at strength 1.\n{happened}"
    leaning = run("PPD_ApplyTasteToConditioning", model=sampler["model"], clip=clip, user_embedding=person).result[0]
    assert torch.equal(words["samples"], paint(sampler, leaning))
    adapter = run("PPD_UserAdapterLoader", user_adapter="pocket").result[0]
    both, report = run("PersonalizedDenoiser", **sampled, clip=clip, user_adapter=adapter).result
    words_line, words_happened, line, *_, happened_here = report.splitlines()
    assert words_line.startswith("Leans to cold") and line.startswith("Paints for 10 picks")
    assert words_happened == happened
    assert happened_here == "Personal were 2 of 2 calls of the model, in 7 of 7 cross-attention layers."
    personal = run("PPD_ApplyUserEmbedding", model=leaning, user_adapter=adapter, user_embedding=person).result[0]
    assert torch.equal(both["samples"], paint(sampler, personal))
    alone = run("PersonalizedDenoiser", **sampled, user_adapter=adapter).result[0]["samples"]
    assert torch.equal(
        run("PersonalizedDenoiser", **sampled, clip=clip, user_adapter=adapter, words_strength=0.0).result[0][
            "samples"
        ],
        alone,
    )


def test_a_taste_encoder_without_looks_or_that_is_not_here_is_a_sentence(run, person, comfy_folders):
    folder = comfy_folders.weights / "taste_encoders" / "pocket"
    encoder = TasteEncoder.load(folder)
    bare = replace(encoder, prior=replace(encoder.prior, noise=2.0), looks=None)
    bare.save(comfy_folders.models / "taste_encoders" / "bare")
    with pytest.raises(ValueError, match="The taste encoder bare names no looks, so there are no words: make one from"):
        run("PPD_TasteToText", user_embedding=replace(person, encoder_hash=bare.weight_hash))
    with pytest.raises(
        ValueError, match="The taste was read by the taste encoder pocket-clip, which is not here: put its folder into"
    ):
        run("PPD_TasteToText", user_embedding=replace(person, encoder_hash="f" * 64))
