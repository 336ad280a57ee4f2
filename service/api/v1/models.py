"""GET /v1/models: which models there are, and all about one."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from service.api.problems import problem_docs
from service.api.schemas import LastAudit, ModelDetail, ModelList, ModelSummary
from service.api.services import services
from service.audits.jobs import AuditJobs
from service.inference.serving_model import RefusedModel, ServingModel

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def list_models(request: Request) -> ModelList:
    """Every model, serving or refused."""
    repository = services(request).repository
    default = services(request).repository.default
    models = repository.serving() | repository.refused()
    return ModelList(
        models=[ModelSummary(**_summary(n, m, default)) for n, m in sorted(models.items())]
    )


@router.get("/{name}", responses=problem_docs(404, 422))
async def show_model(request: Request, name: str) -> ModelDetail:
    """Labels, input, model card, where it comes from, and its last audit."""
    model = services(request).repository.entry(name)
    summary = _summary(name, model, services(request).repository.default)
    if isinstance(model, RefusedModel):
        return ModelDetail(**summary)
    return ModelDetail(
        **summary,
        card=model.card,
        about=model.manifest.about,
        last_audit=await _last_audit(services(request).audits, name),
    )


async def _last_audit(audits: AuditJobs, name: str) -> LastAudit | None:
    last = await audits.last_succeeded(name)
    if last is None:
        return None
    record, report = last
    return LastAudit(
        id=record.id,
        model_version=record.model_version,
        dataset=record.spec.dataset,
        threat=record.spec.threat,
        finished_at=record.finished_at,
        verdict=report.verdict,
        clean=report.clean.defended,
        worst_case=report.worst_case,
    )


def _summary(name: str, model: ServingModel | RefusedModel, default: str) -> dict[str, Any]:
    known: dict[str, Any] = {
        "name": name,
        "default": name == default,
        "available": isinstance(model, ServingModel),
    }
    if isinstance(model, RefusedModel):
        return known | {"refused": model.error.code}
    content = model.manifest.content
    return known | {
        "version": model.manifest.version,
        "labels": content.labels,
        "input": content.input,
        "denoiser": content.denoiser.architecture,
        "classifier": content.classifier.architecture,
        "computing": asdict(model.engine.computing),
        "sigma": None if content.smoothing is None else content.smoothing.sigma,
    }
