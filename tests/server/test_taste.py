"""A duel in the real server: two draws of a person's taste are painted, filed, picked, and read again."""

from __future__ import annotations

import numpy as np
import pytest

from .test_checkpoints import node

pytestmark = pytest.mark.comfyui
PROMPT = "a boat by a lake"
WHO = "a duellist"


def duel(round_):
    """Two draws from what the person's picks leave open, side by side; node ids are names."""
    sampling = {"seed": round_, "steps": 6, "cfg": 4.0, "sampler_name": "dpmpp_2m", "scheduler": "ddim_uniform"}
    sampling |= {"model": ["pocket", 0], "positive": ["positive", 0], "negative": ["negative", 0], "denoise": 1.0}
    sampling |= {"latent_image": ["latent", 0], "user_adapter": ["adapter", 0], "strength": 1.0}
    graph = {
        "pocket": node("PPD_PocketCheckpointLoader", checkpoint="pocket"),
        "positive": node("CLIPTextEncode", clip=["pocket", 1], text=PROMPT),
        "negative": node("CLIPTextEncode", clip=["pocket", 1], text=""),
        "latent": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "adapter": node("PPD_UserAdapterLoader", user_adapter="pocket"),
        "pairs": node("PreferencePairLoader", preference_set=f"person: {WHO}", user="", limit=1000, skip_bad=False),
        "taste": node("UserEmbeddingEncoder", pairs=["pairs", 0], encoder="pocket", skip_bad=False),
    }
    for side in "ab":
        graph[f"draw {side}"] = node(
            "PPD_UserEmbeddingSample", user_embedding=["taste", 0], seed=2 * round_ + (side == "b")
        )
        graph[f"latent {side}"] = node("PersonalizedDenoiser", user_embedding=[f"draw {side}", 0], **sampling)
        graph[f"picture {side}"] = node("VAEDecode", samples=[f"latent {side}", 0], vae=["pocket", 2])
    filed = {"images": ["picture a", 0], "other_images": ["picture b", 0], "person": WHO, "prompt": PROMPT}
    filed |= {"user_embedding": ["draw a", 0], "other_embedding": ["draw b", 0]}
    graph["collector"] = node("PPD_PreferenceCollector", **filed)
    return graph


def warmth(store, digest):
    from ppd.pictures import Picture

    pixels = np.asarray(Picture(store.picture(digest)).open(), dtype=float)
    return pixels[..., 0].mean() - pixels[..., 2].mean()


def test_duels_are_filed_picked_and_read_again(server, store):
    """No browser is open; the third duel knows of two picks, and its reading is of another person than the first's."""
    reports = []
    me = store.add_person(WHO)
    for round_ in range(3):
        entry = server.run(duel(round_))
        assert ("taste" in entry["cached"]) is False
        reports.append((entry["outputs"]["taste"]["text"][0], entry["outputs"]["collector"]["text"][0]))
        (question,) = store.inbox(me.id)
        assert [one["id"] for one in entry["outputs"]["collector"]["ppd_question"]] == [question.id]
        assert question.prompt == PROMPT
        assert question.origin["first"]["u"] != question.origin["second"]["u"]
        assert question.origin["prompt"]["collector"]["class_type"] == "PPD_PreferenceCollector"
        warmer = warmth(store, question.first) > warmth(store, question.second)
        store.pick(question.id, "first" if warmer else "second", f"round {round_}")
    told = [taste.split(". ")[0] for taste, _ in reports]
    assert told[1:] == ["Known from 1 pick", "Known from 2 picks"] and told[0].startswith("No picks")
    assert [filed for _, filed in reports] == [f"{WHO}: questions open 1, answered {n}." for n in range(3)]
    assert [warmth(store, p.chosen.digest) > warmth(store, p.rejected.digest) for p in store.pairs(me.id)] == [True] * 3


def test_the_store_is_not_served(server):
    """Neither as user data nor as a picture."""
    import urllib.error
    import urllib.request

    assert (server.base / "user" / "__ppd" / "taste" / "taste.sqlite3").is_file()
    for path in ("/userdata/..%2F__ppd%2Ftaste%2Ftaste.sqlite3", "/userdata/__ppd%2Ftaste%2Ftaste.sqlite3"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(server.url + path)
        assert error.value.code in (400, 403, 404)
