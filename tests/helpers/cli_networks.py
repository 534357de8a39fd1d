"""Networks for the command line: one that does as it should, and others that fail by name."""

from torch import nn
from torchvision.transforms.functional import pil_to_tensor


class Network(nn.Module):
    categories = ("tench", "tiger cat", "Egyptian cat", "tabby")

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2), nn.ReLU()
        )
        self.head = nn.Linear(5, 4)
        self.idle = nn.ReLU()

    def preprocess(self, image):
        return pil_to_tensor(image.resize((24, 20))) / 255 - 0.5

    def forward(self, x):
        return self.head(self.features(x).mean(dim=(2, 3)))


class Dictionary(Network):
    def forward(self, x):
        return {"out": self.features(x)}


class Pair(Network):
    def forward(self, x):
        return super().forward(x), x


class Map(Network):
    def forward(self, x):
        return self.features(x)


class Detached(Network):
    def forward(self, x):
        return super().forward(x).detach()


class Integers(Network):
    def preprocess(self, image):
        return pil_to_tensor(image)


class NotANumber(Network):
    def preprocess(self, image):
        return super().preprocess(image) * float("nan")


class NaNWeights(Network):
    def __init__(self):
        super().__init__()
        nn.init.constant_(self.head.weight, float("nan"))


class Sizes(Network):
    def preprocess(self, image):
        return pil_to_tensor(image) / 255


class Smooth(Network):
    def __init__(self):
        super().__init__()
        self.features[1] = nn.GELU()


class Speechless(Network):
    def forward(self, x):
        raise AssertionError


class Failing(Network):
    def forward(self, x):
        raise RuntimeError("first line\nsecond line")
