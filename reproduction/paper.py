"""What the paper's Tables 1 and 2 say, and what has to be said about it."""

from collections.abc import Mapping
from types import MappingProxyType

SAYS: Mapping[str, Mapping[str, Mapping[str, float]]] = MappingProxyType(
    {
        "mnist": {
            "unsecured": {"fgsm": 22.1, "pgd": 16.1},
            "madry": {"fgsm": 96.4, "pgd": 92.5},
            "hgd": {"fgsm": 95.9, "pgd": 83.3},
            "feature-loss": {"fgsm": 92.1, "pgd": 83.0},
        },
        "cifar10-grey": {
            "unsecured": {"fgsm": 22.1, "pgd": 16.1},
            "madry": {"fgsm": 55.5, "pgd": 47.0},
            "hgd": {"fgsm": 48.9, "pgd": 42.2},
            "feature-loss": {"fgsm": 43.6, "pgd": 38.5},
        },
    }
)
"""By data set, defence and attack; percent, at epsilon 0.2 by its text, grey-box."""

NOTES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "mnist": {
            "unsecured": "The paper prints the same pair for MNIST and for CIFAR-10.",
            "madry": "The paper's number is that of the public MNIST challenge: epsilon 0.3, "
            "another network, and a white-box attack, where its other rows are at 0.2 and "
            "grey-box. Ours is trained and attacked at 0.2.",
            "hgd": "The HGD paper has no MNIST experiment, and no source is given. Ours is HGD's "
            "method on the paper's classifier.",
        },
        "cifar10-grey": {
            "unsecured": "The paper prints the same pair for MNIST and for CIFAR-10.",
            "madry": "The paper's number is that of the public CIFAR-10 challenge: epsilon 8/255, "
            "a wide ResNet in colour, and a white-box attack. Ours is the paper's classifier, in "
            "grey, trained at 8/255.",
            "hgd": "The HGD paper has no such CIFAR-10 experiment, and no source is given. Ours is "
            "HGD's method on the paper's classifier.",
        },
    }
)
"""Where the paper's number belongs to another threat model, model or source."""

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "unsecured": "UNSECURED",
        "madry": "MADRY (2017)",
        "hgd": "HGD (2018)",
        "feature-loss": "OURS in the paper: `feature_loss`",
        "pixel-mse": "`pixel_mse`: the same without feature terms",
        "feature-squeezing": "feature squeezing (2018)",
        "noise-reduction": "noise reduction (2017)",
        "trades": "TRADES (2019)",
        "joint": "recipe `mnist`, our default's",
        "hgd-feature": "HGD, feature-guided",
        "hgd-pixel": "HGD, pixel-guided",
        "feature-denoise": "feature denoising (2019)",
        "alp": "ALP (2018)",
        "online": "`mnist-online`: attacked as it learns",
    }
)
"""What a row is called."""
