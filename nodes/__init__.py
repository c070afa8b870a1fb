"""The ComfyUI nodes, one file per stage: preference pairs, user embedding, user adapter, sampling; the pocket model;
studies."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from . import blind_routes, library, renamed, report, routes, tastes, training_routes, why
from .adapter import PPD_ApplyUserEmbedding, PPD_UserAdapterLoader
from .blind_test import PPD_BlindTest, PPD_TestPrompts
from .brand import PPD_BindToGuide, PPD_BrandCheck
from .collect import PPD_PreferenceCollector
from .embedding import (
    PPD_UserEmbeddingBatch,
    PPD_UserEmbeddingBlend,
    PPD_UserEmbeddingLoad,
    PPD_UserEmbeddingSample,
    PPD_UserEmbeddingSave,
    UserEmbeddingEncoder,
)
from .explaining import PPD_ExplainTaste, PPD_TurnLook
from .guard import PPD_CheckLeakage, PPD_CheckPrompts, PPD_CheckStereotypes
from .ip_adapter import PPD_IPAdapterLoader
from .judging import PPD_JudgePictures
from .lora import PPD_SaveTasteAsLoRA
from .making import PPD_MakeTasteEncoder
from .my_taste import PPD_MyTaste
from .pairs import PreferencePairLoader
from .pocket import PPD_PocketCheckpointLoader
from .sampling import PersonalizedDenoiser
from .sorting import PPD_SortByTaste
from .studies import PPD_AddStudies, PPD_PaintStudies
from .taste_code import PPD_TasteCode, PPD_TasteToCode
from .training import PPD_TrainUserAdapter
from .words import PPD_ApplyTasteToConditioning, PPD_TasteToText


class PersonalizationExtension(ComfyExtension):
    async def on_load(self) -> None:
        server = getattr(PromptServer, "instance", None)  # tools load packs without one
        if server is not None:
            routes.register(server.routes)
            library.register(server.routes)
            tastes.register(server.routes)
            why.register(server.routes)
            training_routes.register(server.routes)
            blind_routes.register(server.routes)
            report.register(server.routes)
            await renamed.register(server)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            PreferencePairLoader,
            PPD_PreferenceCollector,
            UserEmbeddingEncoder,
            PPD_UserEmbeddingSample,
            PPD_UserEmbeddingSave,
            PPD_UserEmbeddingLoad,
            PPD_UserEmbeddingBlend,
            PPD_UserEmbeddingBatch,
            PPD_MyTaste,
            PPD_SortByTaste,
            PPD_TasteCode,
            PPD_TasteToCode,
            PPD_TasteToText,
            PPD_ExplainTaste,
            PPD_TurnLook,
            PPD_ApplyTasteToConditioning,
            PPD_UserAdapterLoader,
            PPD_IPAdapterLoader,
            PPD_ApplyUserEmbedding,
            PPD_SaveTasteAsLoRA,
            PersonalizedDenoiser,
            PPD_PocketCheckpointLoader,
            PPD_PaintStudies,
            PPD_AddStudies,
            PPD_MakeTasteEncoder,
            PPD_TrainUserAdapter,
            PPD_CheckPrompts,
            PPD_CheckLeakage,
            PPD_CheckStereotypes,
            PPD_BrandCheck,
            PPD_BindToGuide,
            PPD_TestPrompts,
            PPD_BlindTest,
            PPD_JudgePictures,
        ]
