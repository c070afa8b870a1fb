"""Personalized preference diffusion: one diffusion model that paints for one person, from a few of their picks.

The whole way, from pairs of pictures to a personal denoiser, in a checkout (its `weights` hold the files named here):

    from pathlib import Path
    from ppd.adapters import UserAdapter
    from ppd.encoders.encoder import TasteEncoder
    from ppd.encoders.towers import open_tower
    from ppd.hosts.diffusers import DiffusersHost, guidance_rows
    from ppd.pairs import read_pairs
    from ppd.pocket.world import POCKET

    pairs = list(read_pairs("weights/examples/vivid and bold"))  # prompt, chosen picture, rejected picture
    folder = Path("weights/taste_encoders/pocket")
    taste = TasteEncoder.load(folder)
    encoder = taste.open(open_tower(taste.tower, folder))
    person = encoder.encode(pairs)  # the posterior's mean u [1, d]; person.save("me.safetensors") keeps it

    denoiser = POCKET.load_model(Path("weights")).denoiser  # diffusers' UNet2DConditionModel; any other of its classes
    adapter = UserAdapter.load("weights/adapters/pocket.safetensors")
    host = DiffusersHost(denoiser, adapter)
    with host.personalized(guidance_rows(person.u[None], adapter.config.unconditional), strength=1.0):
        ...  # call `denoiser`, unconditional row first, or a pipeline around it

Importing `ppd` itself costs nothing. These modules, `ppd.user_embedding`, `ppd.studies`, `ppd.store`, `ppd.lora` and
`ppd.training` are for others to use; what begins with an underscore is not.
"""

__version__ = "0.2.0"
