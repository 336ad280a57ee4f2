"""Sources of classifiers: what they say of the input, and what is refused."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image
from torch import nn
from torchvision import models
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor

from fend.datasets import load
from fend.images import InputSpec, decode
from training.classifiers import ForeignInvalid, Said, classifier_of, said_by_user
from training.classifiers.zoos import said_by_processor
from training.stages.classifier import by_label


def _onnx(path: Path, nodes: list, weights: dict, shape: list, classes: int = 4) -> Path:
    graph = helper.make_graph(
        nodes, "classifier",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [shape[0], classes])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, path)
    return path


def _numbers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _nhwc(path: Path) -> Path:
    """As converters from TensorFlow write it: NHWC, a pad computed from the size of the images as
    SAME does, a shape put together from the batch, an average over places, and a softmax."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    weights = {
        "kernel": rng.normal(0, 0.01, size=(6, 3, 3, 3)).astype(np.float32),
        "dense/weights:0": rng.normal(size=(6, 4)).astype(np.float32),
        "two": _numbers(2), "one": np.array(1), "stride": np.array(2), "width": np.array(3),
        "axis0": _numbers(0), "minus": _numbers(-1), "zeros": _numbers(0, 0, 0),
        "first": np.array(0),
    }  # fmt: skip
    nodes = [
        node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]),
        node("Shape", ["nchw"], ["shape"]),
        node("Gather", ["shape", "stride"], ["height"]),  # place 2
        node("Add", ["height", "one"], ["h1"]),
        node("Div", ["h1", "stride"], ["outputs"]),
        node("Sub", ["outputs", "one"], ["o1"]),
        node("Mul", ["o1", "stride"], ["o2"]),
        node("Add", ["o2", "width"], ["o3"]),
        node("Sub", ["o3", "height"], ["added"]),
        node("Unsqueeze", ["added", "axis0"], ["end"]),
        node("Concat", ["zeros", "axis0", "axis0", "axis0", "end", "end"], ["pads"], axis=0),
        node("Pad", ["nchw", "pads"], ["padded"]),
        node("Conv", ["padded", "kernel"], ["conv"], strides=[2, 2]),
        node("Relu", ["conv"], ["features"]),
        node("Transpose", ["features"], ["nhwc"], perm=[0, 2, 3, 1]),
        node("ReduceMean", ["nhwc"], ["mean"], axes=[1, 2], keepdims=1),
        node("Gather", ["shape", "first"], ["batch"]),
        node("Unsqueeze", ["batch", "axis0"], ["batch1"]),
        node("Concat", ["batch1", "minus"], ["flat"], axis=0),
        node("Reshape", ["mean", "flat"], ["rows"]),
        node("MatMul", ["rows", "dense/weights:0"], ["logits"]),
        node("Softmax", ["logits"], ["out"], axis=-1),
    ]
    return _onnx(path, nodes, weights, ["batch", 12, 12, 3])


def test_an_onnx_file_of_tensorflow_is_taken(tmp_path) -> None:
    path = _nhwc(tmp_path / "nhwc.onnx")
    said = said_by_user(mean="104,117,123", bgr=True, resize="stretch:16")
    taken = classifier_of(str(path), said=said)
    assert taken.input == InputSpec(
        channels=3, height_px=12, width_px=12, resize="stretch", crop_from_px=16
    )
    assert taken.origin.about()["factory"] == taken.origin.about()["weights"] == "nhwc.onnx"
    reference = ReferenceEvaluator(str(path))
    for count in (1, 2, 7):
        images = torch.rand(count, 3, 12, 12)
        levels = images.permute(0, 2, 3, 1).numpy()[..., ::-1] * 255
        fed = (levels - np.array([104, 117, 123])).astype(np.float32)
        (expected,) = reference.run(None, {"images": fed})
        answers = taken.module(images).softmax(1).numpy()
        assert np.allclose(answers, expected, atol=1e-4)
    # All arithmetic of sizes but the batch's was done when the file was read.
    assert sum(step["op"].startswith("number.") for step in taken.config["steps"]) == 0


@pytest.mark.parametrize("batch", ["N", 1])
def test_what_torch_itself_writes_as_onnx_or_pt2_comes_back(tmp_path, batch) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(), nn.MaxPool2d(2),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Flatten(), nn.Linear(8 * 4, 5),
    ).eval()  # fmt: skip
    shapes = ({0: torch.export.Dim("N")},) if batch == "N" else None
    program = torch.export.export(module, (torch.rand(3 if batch == "N" else 1, 3, 16, 16),),
                                  dynamic_shapes=shapes)  # fmt: skip
    torch.export.save(program, tmp_path / "net.pt2")
    state = {key.replace(".", "_"): value.numpy() for key, value in module.state_dict().items()}
    node = helper.make_node
    nodes = [
        node("Conv", ["images", "0_weight"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", *(f"1_{part}" for part in (
            "weight", "bias", "running_mean", "running_var"))], ["b"]),
        node("HardSwish", ["b"], ["c"]),
        node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", ["d"], ["e"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Reshape", ["e", "rows"], ["f"]),
        node("Gemm", ["f", "6_weight", "6_bias"], ["out"], transB=1),
    ]  # fmt: skip
    state["rows"] = _numbers(-1, 32) if batch == "N" else _numbers(1, 32)
    _onnx(tmp_path / "net.onnx", nodes, state, [batch, 3, 16, 16], 5)
    for name in ("net.pt2", "net.onnx"):
        taken = classifier_of(str(tmp_path / name))
        assert (taken.input.height_px, taken.classes) == (16, 5)
        for count in (1, 2, 7):
            images = torch.rand(count, 3, 16, 16)
            assert torch.allclose(taken.module(images), module(images), atol=1e-5), name


def _saved_vit(folder: Path) -> ViTForImageClassification:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, id2label={0: "crane", 1: "crane", 2: "gate"},
    )  # fmt: skip
    config.label2id = {"crane": 1, "gate": 2}
    module = ViTForImageClassification(config).eval()
    module.save_pretrained(folder)
    ViTImageProcessor(
        size={"height": 32, "width": 32},
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.2] * 3,
        resample=3,
    ).save_pretrained(folder)
    return module


def test_a_folder_of_hugging_face_is_taken_with_what_it_says(tmp_path) -> None:
    module = _saved_vit(tmp_path)
    taken = classifier_of(f"hf:{tmp_path}")
    assert taken.labels == ("crane", "crane (2)", "gate")
    assert taken.input == InputSpec(
        channels=3, height_px=32, width_px=32, resize="stretch", interpolation="bicubic"
    )
    levels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "image.png")
    pixels = decode((tmp_path / "image.png").read_bytes(), taken.input).pixels
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    fed = processor(Image.fromarray(levels), return_tensors="pt")["pixel_values"]
    assert torch.allclose(taken.module(pixels[None]), module(fed).logits, atol=1e-4)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_hidden_layers"] = 2  # so that some of its tensors are nowhere
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ForeignInvalid, match="is no classifier: it has no vit"):
        classifier_of(f"hf:{tmp_path}")


def test_torchvision_with_weights_of_a_file_and_changes_by_flags(tmp_path) -> None:
    module = models.squeezenet1_1(num_classes=7).eval()
    torch.save(module.state_dict(), tmp_path / "squeezed.pt")
    weights = tmp_path / "squeezed.pt"
    taken = classifier_of(
        "torchvision:squeezenet1_1", weights=weights, said=said_by_user(size="64")
    )
    assert taken.input == InputSpec(
        channels=3, height_px=64, width_px=64, resize="crop", crop_from_px=73
    )
    images = torch.rand(2, 3, 64, 64)
    mean, std = (
        torch.tensor(x).view(3, 1, 1) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    assert torch.allclose(taken.module(images), module((images - mean) / std), atol=1e-5)
    assert taken.labels is None


def test_a_bundle_is_a_source(tiny_bundle_dir) -> None:
    folder = str(tiny_bundle_dir / "mnist")
    taken = classifier_of(folder)
    assert taken.classes == len(taken.labels) == 10
    assert taken.module(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    for flags in ({"size": "32"}, {"mean": "0.5"}):
        with pytest.raises(ForeignInvalid, match="only --labels"):
            classifier_of(folder, said=said_by_user(**flags))


def _refused(folder: Path) -> dict[str, tuple[str, str]]:
    """Source, and what its refusal says."""
    node, (one, four) = helper.make_node, (np.ones(1, np.float32), np.ones((192, 4), np.float32))
    flat = [node("Flatten", ["images"], ["f"]), node("MatMul", ["f", "w"], ["g"])]
    shape = ["N", 3, 8, 8]
    _onnx(folder / "op.onnx", [*flat, node("Det", ["g"], ["out"], name="last")], {"w": four}, shape)
    _onnx(
        folder / "size.onnx",
        [*flat, node("Add", ["g", "b"], ["out"])],
        {"w": four, "b": one},
        ["N", 3, "h", "w"],
    )
    _onnx(folder / "flat.onnx", [node("MatMul", ["images", "w"], ["out"])], {"w": four}, ["N", 192])
    (folder / "no.onnx").write_bytes(b"onnx")
    (folder / "no.pt2").write_bytes(b"PK")
    (folder / "net.tflite").write_bytes(b"TFL3")
    torch.save({"w": torch.ones(2)}, folder / "weights.pt")
    with pytest.warns(FutureWarning):  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), folder / "script.pt")
    return {
        "op.onnx": ("op.onnx", "operator Det is not supported .node 'last'."),
        "no size": ("size.onnx", "height or width are missing"),
        "no images": ("flat.onnx", "not images"),
        "no onnx": ("no.onnx", "no ONNX file"),
        "no pt2": ("no.pt2", "no file of torch.export.save"),
        "no file": ("absent.onnx", "no such file"),
        "weights alone": ("weights.pt", "--classifier-weights"),
        "TorchScript": ("script.pt", "TorchScript"),
        "other": ("net.tflite", "Convert it to ONNX"),
        "folder": ("", "write hf:"),
    }


@pytest.mark.parametrize("kind", [
    "op.onnx", "no size", "no images", "no onnx", "no pt2", "no file", "weights alone",
    "TorchScript", "other", "folder",
])  # fmt: skip
def test_files_that_are_no_classifier_are_refused_in_a_sentence(tmp_path, kind) -> None:
    name, told = _refused(tmp_path)[kind]
    with pytest.raises(ForeignInvalid, match=told) as refused:
        classifier_of(str(tmp_path / name))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("torchvision:resnet19", "among others: resnet18"),
        ("torchvision:raft_small", "has no classifier"),
        ("timm:vit_tiny", "among others: .*vit_tiny"),
        ("hf:./nowhere", "no such folder"),
        ("torchvision:resnet18", "where there is no network.*--classifier-weights FILE$"),
        ("timm:resnet10t", "where there is no network.*--classifier-weights FILE$"),
        ("hf:google/vit-base-patch16-224", "where there is no network.*hf:FOLDER"),
    ],
)
def test_names_and_downloads_that_fail_are_refused(tmp_path, monkeypatch, source, told) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing is there
    with pytest.raises(ForeignInvalid, match=told):
        classifier_of(source)


def test_another_size_than_a_transformer_has_is_told(tmp_path) -> None:
    _saved_vit(tmp_path)
    with pytest.raises(ForeignInvalid, match=r"3x24x24.*--size"):
        classifier_of(f"hf:{tmp_path}", said=said_by_user(size="24"))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"size": "big"}, "--size"),
        ({"resize": "crop:"}, "--resize"),
        ({"resize": "cover"}, "--resize"),
        ({"interpolation": "hamming"}, "--interpolation"),
        ({"mean": "a,b"}, "--mean"),
        ({"std": "0,1,1"}, "above 0"),
        ({"labels": Path("absent.txt")}, "absent.txt"),
    ],
)
def test_flags_that_cannot_be_read_are_refused(flags, told) -> None:
    with pytest.raises(ForeignInvalid, match=told):
        said_by_user(**flags)


def test_flags_that_do_not_fit_the_network_are_refused(tmp_path) -> None:
    path = str(_nhwc(tmp_path / "nhwc.onnx"))
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    for flags, told in [
        ({"labels": tmp_path / "labels.txt"}, "4 logits, and there are 3 labels"),
        ({"mean": "0.5,0.5"}, "2 numbers, and images have 3 channels"),
        ({"resize": "crop:8"}, "crop_from_px"),
    ]:
        with pytest.raises(ForeignInvalid, match=told):
            classifier_of(path, said=said_by_user(**flags))
    with pytest.raises(ForeignInvalid, match="holds its weights"):
        classifier_of(path, weights=tmp_path / "labels.txt")


SQUARE = {"height": 224, "width": 224}
SHORTER = {"shortest_edge": 256}


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224},
             "crop_pct": 0.875, "resample": 3},
            Said(resize="crop", crop_from_px=256, interpolation="bicubic"),
        ),
        (  # as MobileViT's
            {"size": SHORTER, "do_center_crop": True, "crop_size": SQUARE, "resample": 2,
             "do_flip_channel_order": True, "do_rescale": True},
            Said(resize="crop", crop_from_px=256, interpolation="bilinear", bgr=True),
        ),
        (
            {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 224},
             "do_center_crop": True, "crop_size": SQUARE},
            Said(resize="crop", crop_from_px=256),
        ),
        (  # to [-1, 1], as MobileNet's
            {"size": SQUARE, "do_rescale": True, "rescale_factor": 1 / 127.5,
             "rescale_offset": True},
            Said(resize="stretch", mean=(0.5,) * 3, std=(0.5,) * 3),
        ),
    ],
)  # fmt: skip
def test_what_preprocessors_of_transformers_say(processor, expected) -> None:
    said = said_by_processor(processor, ViTConfig())
    assert said.size_px == (224, 224)
    for name in ("resize", "crop_from_px", "interpolation", "bgr"):
        assert getattr(said, name) == getattr(expected, name), name
    assert said.mean == pytest.approx(expected.mean or (0.0,) * 3)
    factor = 1.0 if processor.get("do_rescale") else 1 / 255
    assert said.std == pytest.approx(expected.std or (factor,) * 3)


def test_images_are_matched_by_label_else_by_position() -> None:
    digits = load("rendered-digits:test", None).subset(slice(0, 20))
    names = digits.label_names
    assert by_label(digits, 10, None, "x").label_names == names
    more = ("other", *reversed(names))
    matched = by_label(digits, 11, more, "x")
    assert [more[i] for i in matched.labels] == [names[i] for i in digits.labels]
    for labels in (None, ("a",) * 11):
        with pytest.raises(ForeignInvalid, match="11 logits"):
            by_label(digits, 11, labels, "x")
