"""HGD's guide (Liao et al. 2018): the protected classifier in the place of a loss network."""

from typing import Literal, get_args

from torch import Tensor, nn

GuideTap = Literal["features", "logits"]
GUIDE_TAPS: tuple[str, ...] = get_args(GuideTap)


class ClassifierGuide(nn.Module):
    """The frozen classifier's last convolutional features, or its logits, as a feature map.

    The features are what goes into the first fully connected layer, whatever the architecture.

    Raises:
        ValueError: `features` of a classifier without a fully connected layer.
    """

    def __init__(self, classifier: nn.Module, tap: GuideTap) -> None:
        super().__init__()
        self.classifier = classifier
        self.tap = tap
        layers = (layer for layer in classifier.modules() if isinstance(layer, nn.Linear))
        self._first_linear = next(layers, None)
        if tap == "features" and self._first_linear is None:
            raise ValueError(f"{type(classifier).__name__} has no fully connected layer")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N,C,H,W) in [0, 1] to one map (N,F) by the name of the tap."""
        if self.tap == "logits" or self._first_linear is None:
            return {"logits": self.classifier(images)}
        features: list[Tensor] = []

        def remember(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            features.append(inputs[0])

        hook = self._first_linear.register_forward_pre_hook(remember)
        try:
            self.classifier(images)
        finally:
            hook.remove()
        return {"features": features[0]}
