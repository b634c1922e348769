"""The convolutional networks: the papers' numbers of weights, and scores for images of any size, and for none."""

import re
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from framework.errors import InputError
from framework.models.cnn.attention import CBAMResNet, ChannelAttention, SEResNet, SpatialAttention
from framework.models.cnn.averaged import Averaged
from framework.models.cnn.boosted import BoostedResNet
from framework.models.cnn.densenet import DenseNet
from framework.models.cnn.image_model import ImageModel
from framework.models.cnn.layers import Classifier, convolution, convolved
from framework.models.cnn.residual import residual_network
from framework.models.cnn.resnet import ResNet
from framework.models.cnn.vgg import VGG
from framework.models.cnn.wide import ResNeXt, WideResNet


def weights(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def convolutions(shapes: Sequence[tuple[int, int, int]]) -> int:
    """Weights of convolutions given as (in, out, size of the window), each with batch normalisation behind it."""
    return sum(inputs * outputs * size**2 + 2 * outputs for inputs, outputs, size in shapes)


def residual(depth: int, widths: Sequence[int] = (16, 32, 64), channels: int = 3) -> int:
    """He et al., section 4.2: 6 n + 2 layers, shortcuts without weights."""
    shapes = [(channels, widths[0], 3)]
    for stage, width in enumerate(widths):
        shapes += [(widths[max(0, stage - 1)], width, 3), *[(width, width, 3)] * ((depth - 2) // 3 - 1)]
    return convolutions(shapes) + 10 * widths[-1] + 10


def resnext(cardinality: int, path: int) -> int:
    """Xie et al., section 5.2: blocks of 1 x 1, grouped 3 x 3 and 1 x 1, three in each of three stages."""
    total, before = convolutions([(3, 64, 3)]), 64
    for stage in range(3):
        middle, after = cardinality * path * 2**stage, 256 * 2**stage
        for number in range(3):
            total += convolutions([(before, middle, 1), (middle // cardinality, middle, 3), (middle, after, 1)])
            total += convolutions([(before, after, 1)]) if number == 0 else 0
            before = after
    return total + 10 * before + 10


def vgg(stages: Sequence[int]) -> int:
    """Simonyan and Zisserman, table 1, with one linear layer."""
    shapes, before = [], 3
    for count, width in zip(stages, (64, 128, 256, 512, 512), strict=True):
        shapes += [(before, width, 3), *[(width, width, 3)] * (count - 1)]
        before = width
    return convolutions(shapes) + 512 * 10 + 10


PAPERS: list[tuple[ImageModel, int, float]] = [
    (VGG(depth=11), vgg((1, 1, 2, 2, 2)), 9.2e6),
    (VGG(depth=13), vgg((2, 2, 2, 2, 2)), 9.4e6),
    (VGG(depth=16), vgg((2, 2, 3, 3, 3)), 14.7e6),
    (VGG(depth=19), vgg((2, 2, 4, 4, 4)), 20.0e6),
    (ResNet(depth=20), residual(20), 0.27e6),
    (ResNet(depth=56), residual(56), 0.85e6),
    (ResNet(depth=110), residual(110), 1.7e6),
    (DenseNet(depth=100, growth=12), 769_162, 0.77e6),
    (WideResNet(depth=16, widen=4), 2_748_890, 2.7e6),
    (WideResNet(depth=28, widen=10), 36_479_194, 36.5e6),
    (ResNeXt(depth=29, cardinality=8, path=64), resnext(8, 64), 34.4e6),
]
"""What the papers say of CIFAR-10, and the exact number, counted here or by others."""


@pytest.mark.parametrize(("model", "exact", "published"), PAPERS, ids=str)
def test_weights_are_as_many_as_in_the_paper(model: ImageModel, exact: int, published: float) -> None:
    with torch.device("meta"):
        network = model.build(3, 10)
    assert weights(network) == exact
    assert exact == pytest.approx(published, rel=0.02)


def test_numbers_in_docstrings_are_right() -> None:
    counted = {
        ResNet: [residual(depth) for depth in (20, 56, 110)],
        VGG: [vgg((2, 2, 3, 3, 3))],
        ResNeXt: [resnext(8, 64)],
    }
    for model, numbers in counted.items():
        assert re.findall(r"\d+(?:,\d{3})+", model.build.__doc__ or "") == [f"{number:,}" for number in numbers]


@pytest.mark.parametrize("depth", [20, 56])
def test_attention_adds_what_its_formula_says(depth: int) -> None:
    blocks = (depth - 2) // 6
    squares = sum(blocks * width**2 for width in (16, 32, 64))
    plain = weights(ResNet(depth=depth).build(3, 10))
    assert weights(SEResNet(depth=depth, reduction=8).build(3, 10)) - plain == 2 * squares // 8
    cbam = CBAMResNet(depth=depth, reduction=8, kernel=7).build(3, 10)
    assert weights(cbam) - plain == 2 * squares // 8 + 3 * blocks * 2 * 7**2


def test_boosting_adds_an_auto_encoder_and_channels_of_the_first_layer() -> None:
    model = BoostedResNet(depth=20, auxiliary=8, hidden=16)
    auto_encoder = 9 * (3 * 16 + 16 * 8 + 8 * 16 + 16 * 3)
    assert weights(model.build(3, 10)) == residual(20) + 9 * 8 * 16 + auto_encoder


SMALL: list[ImageModel] = [
    VGG(depth=11, width=4),
    ResNet(depth=8, width=4),
    DenseNet(depth=16, growth=4),
    WideResNet(depth=10, widen=2, width=4),
    ResNeXt(depth=11, cardinality=2, path=4, width=4),
    SEResNet(depth=8, width=4, reduction=2),
    BoostedResNet(depth=8, width=4, auxiliary=2, hidden=4),
    CBAMResNet(depth=8, width=4, reduction=2),
]


@pytest.mark.parametrize("model", SMALL, ids=lambda model: type(model).__name__)
def test_images_of_any_size_and_number_have_scores(model: ImageModel) -> None:
    torch.manual_seed(0)
    network = model.build(2, 5)
    for height, width in ((32, 32), (28, 28), (9, 13)):
        assert network(torch.randn(3, 2, height, width)).shape == (3, 5)
    nothing = network(torch.randn(0, 2, 8, 8))
    assert nothing.shape == (0, 5)
    nothing.sum().backward()
    learned = [weight for name, weight in network.named_parameters() if not name.startswith("auto_encoder")]
    assert all(weight.grad is not None and not weight.grad.any() for weight in learned)


def test_a_block_adds_its_shortcut() -> None:
    """With zero convolutions a residual network passes on every other pixel, and pads channels with zeros."""
    network = residual_network(1, 2, depth=8, width=2)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d) and "second" in name:
            nn.init.zeros_(layer.weight)
    images = torch.randn(2, 1, 9, 9)
    first = network.features[0](images)  # type: ignore[index]
    with torch.no_grad():
        for layer in network.features[1:]:  # type: ignore[index]
            layer.second[1].eval()
            layer.second[1].bias.zero_()
        out = network.features(images)  # type: ignore[operator]
    assert out.shape == (2, 8, 3, 3)
    assert out[:, 2:].eq(0).all()
    torch.testing.assert_close(out[:, :2], first[:, :, ::4, ::4])


def test_the_average_is_of_shared_weights_too() -> None:
    network = nn.Sequential(convolved(2, 2), convolved(2, 2), Classifier([], 2, 3))
    network[1][0].weight = network[0][0].weight  # type: ignore[index,union-attr]
    averaged, images = Averaged(network, 0.5), torch.randn(4, 2, 5, 5)
    for _ in range(3):
        averaged.train()(images)
    weights = dict(averaged.average.named_buffers())
    for name in ("0.0.weight", "1.0.weight"):
        torch.testing.assert_close(weights[name], network[0][0].weight.detach())  # type: ignore[index,union-attr]
    assert averaged.eval()(images).shape == (4, 3)


def test_channels_are_weighed_by_the_image_and_places_by_their_channels() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 5)
    channels = ChannelAttention(4, 2, peaks=True)
    first, second = channels.weigh[0].weight, channels.weigh[2].weight
    scores = [torch.relu(summary @ first.T) @ second.T for summary in (x.mean((2, 3)), x.amax((2, 3)))]
    torch.testing.assert_close(channels(x), x * torch.sigmoid(scores[0] + scores[1])[:, :, None, None])
    squeezing = ChannelAttention(4, 2, peaks=False)
    squeezing.load_state_dict(channels.state_dict())
    torch.testing.assert_close(squeezing(x), x * torch.sigmoid(scores[0])[:, :, None, None])
    places = SpatialAttention(3)
    window = nn.functional.conv2d(torch.stack([x.mean(1), x.amax(1)], 1), places.weigh.weight, padding=1)
    torch.testing.assert_close(places(x), x * torch.sigmoid(window))


def test_the_frozen_encoder_gives_channels_and_learns_from_images_alone() -> None:
    torch.manual_seed(0)
    network = BoostedResNet(depth=8, width=4, auxiliary=2, hidden=4).build(3, 5)
    images = torch.randn(2, 3, 7, 8)
    network(images, reconstruct=True).square().sum().backward()
    named = dict(network.named_parameters())
    assert {name for name, weight in named.items() if weight.grad is not None} == {
        name for name in named if name.startswith("auto_encoder")
    }
    network.zero_grad()
    network(images).sum().backward()
    assert {name for name, weight in named.items() if weight.grad is not None} == {
        name for name in named if name.startswith("classifier")
    }
    assert network.auto_encoder.encoded(images).shape == (2, 2, 7, 8)  # type: ignore[operator,union-attr]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: ResNet(depth=21), r"--model.depth is 21; expected 6 n \+ 2: 8, 14, 20"),
        (lambda: DenseNet(depth=20), r"expected 6 n \+ 4: 10, 16, 22"),
        (lambda: ResNeXt(depth=28), r"expected 9 n \+ 2: 11, 20, 29"),
        (lambda: VGG(depth=12), "expected 11, 13, 16 or 19"),  # type: ignore[arg-type]
        (lambda: SEResNet(width=10), "--model.width is 10 and --model.reduction 16"),
        (lambda: CBAMResNet(kernel=4), "--model.kernel is 4; expected an odd number"),
        (lambda: DenseNet(compression=0.0), "--model.compression is 0.0"),
        (
            lambda: DenseNet(depth=10, growth=1, compression=0.4),
            "compression is 0.4, which leaves no channel of so few",
        ),
        (lambda: WideResNet(widen=0), "--model.widen is 0"),
        (lambda: BoostedResNet(pretraining=-1), "--model.pretraining is -1"),
    ],
)
def test_settings_that_make_no_network_are_refused(model: Callable[[], ImageModel], words: str) -> None:
    with pytest.raises(InputError, match=words):
        model()


def test_a_grouped_convolution_is_paths_side_by_side() -> None:
    torch.manual_seed(0)
    layer = convolution(4, 6, groups=2)
    x = torch.randn(1, 4, 5, 5)
    halves = [
        nn.functional.conv2d(part, mask, padding=1)
        for part, mask in zip(x.chunk(2, 1), layer.weight.chunk(2), strict=True)
    ]
    torch.testing.assert_close(layer(x), torch.cat(halves, dim=1))
