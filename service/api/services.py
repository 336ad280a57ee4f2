"""What the routes use, in one typed object: made by `create_app`, on the app's state."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request

if TYPE_CHECKING:
    from service.api.answering import Answering
    from service.api.health import Readiness
    from service.api.security import Access, FailedLogins
    from service.audits.jobs import AuditJobs
    from service.inference.attacker import Attacker
    from service.inference.certifier import Certifier
    from service.inference.repository import Repository
    from service.inference.serving_model import ModelLoader
    from service.inference.swaps import Swaps
    from service.observe.lifecycle import Lifecycle
    from service.observe.metrics import Metrics
    from service.observe.traces import Traces
    from service.settings import Settings
    from service.state.database import Database


@dataclass
class Services:
    """Everything that lives as long as the app."""

    settings: "Settings"
    access: "Access"
    failed_logins: "FailedLogins"
    lifecycle: "Lifecycle"
    metrics: "Metrics"
    traces: "Traces"
    database: "Database"
    loader: "ModelLoader"
    repository: "Repository"
    swaps: "Swaps"
    certifier: "Certifier"
    attacker: "Attacker"
    answering: "Answering"
    audits: "AuditJobs"
    readiness: "Readiness"


def services(request: Request) -> Services:
    """Those of the app that answers `request`."""
    return services_of(request.app)


def services_of(app: FastAPI) -> Services:
    """Those of `app`."""
    found: Services = app.state.services
    return found
