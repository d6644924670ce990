"""The settings with the plug-ins' parameters joined in: `detectors` and `alerting.receivers`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, Field, create_model, model_validator

from service.config.routes import check_receivers, check_route
from service.settings import AlertingSettings, Section, Settings


class ReceiverSettings(Section):
    """One destination of notifications."""

    type: str
    """What kind of destination it is."""
    name: Annotated[str, Field(min_length=1)]
    """Name by which routes call it; unique."""


class ReceivingSettings(AlertingSettings):
    """From findings to messages."""

    receivers: list[ReceiverSettings] = []
    """Destinations of messages."""


class Configuration(Settings):
    """Everything, plug-ins included. The type made by `settings_type` knows the parameters of each."""

    detectors: Section = Section()
    """Parameters of each detector."""
    alerting: ReceivingSettings = ReceivingSettings()
    """From findings to messages."""

    def detector(self, name: str) -> Any:
        """Return the parameters of the detector of this name."""
        return getattr(self.detectors, name)

    @model_validator(mode="after")
    def _routes_reach_receivers(self) -> Self:
        names = [receiver.name for receiver in self.alerting.receivers]
        problems = check_receivers(names)
        for i, route in enumerate(self.alerting.routes):
            problems += check_route(i, route, names, ())
        if problems:
            raise ValueError(str(problems[0]))
        return self


def settings_type(
    detector_params: Mapping[str, type[BaseModel]],
    receiver_params: Mapping[str, type[BaseModel]],
) -> type[Configuration]:
    """Return the type of the whole configuration: one section per detector, one kind of receiver per notifier."""
    detectors = _all_detectors(detector_params)
    alerting = _all_receivers(receiver_params)
    return create_model(
        "Configuration",
        __base__=Configuration,
        __doc__=Settings.__doc__,
        detectors=(detectors, _like("detectors", Configuration, detectors())),
        alerting=(alerting, _like("alerting", Configuration, alerting())),
    )


def _all_detectors(params: Mapping[str, type[BaseModel]]) -> type[Section]:
    fields: dict[str, Any] = {}
    for name, params_type in params.items():
        strict = create_model(params_type.__name__, __base__=(params_type, Section), __doc__=params_type.__doc__)
        fields[name] = (strict, Field(default=strict(), description=_first_sentence(params_type)))
    return create_model("Detectors", __base__=Section, __doc__="Parameters of each detector.", **fields)


def _all_receivers(params: Mapping[str, type[BaseModel]]) -> type[ReceivingSettings]:
    kinds = {name: _receiver(name, params_type) for name, params_type in params.items()}
    if not kinds:
        return ReceivingSettings
    any_kind: Any = reduce(or_, kinds.values())
    item = Annotated[any_kind, Field(discriminator="type")] if len(kinds) > 1 else any_kind
    console = [kinds["stdout"](type="stdout", name="console")] if "stdout" in kinds else []
    return create_model(
        "Alerting",
        __base__=ReceivingSettings,
        __doc__=AlertingSettings.__doc__,
        receivers=(_list_of(item), _like("receivers", ReceivingSettings, console)),
    )


def _receiver(name: str, params_type: type[BaseModel]) -> type[ReceiverSettings]:
    bases: Any = (params_type, ReceiverSettings)
    type_field: Any = (Literal[name], _like("type", ReceiverSettings, ...))
    made: Any = create_model(params_type.__name__, __base__=bases, __doc__=params_type.__doc__, type=type_field)
    return cast("type[ReceiverSettings]", made)


def _list_of(item: Any) -> Any:
    return list[item]


def _like(name: str, model: type[BaseModel], default: Any) -> Any:
    return Field(default=default, description=model.model_fields[name].description)


def _first_sentence(model: type[BaseModel]) -> str:
    paragraph = (model.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split())
