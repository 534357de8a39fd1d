"""What several methods answered: a dictionary that a notebook shows as pictures."""

from typing import Any

from torch import Tensor

_EXAMPLES, _WIDTH = 4, 192


class Attributions(dict[str, Any]):
    """Attributions by their methods' names: a dictionary, which a notebook shows as pictures.

    A value is a tensor shaped like the input, or where there were several a tuple of them.
    """

    def _repr_html_(self) -> str:
        """Show the first four examples by each method, and between which values each lies."""
        from captum_deconv.drawing.colours import TITLES
        from captum_deconv.drawing.notebook import lay_out, show_attribution

        rows, pictures = [], []
        for method, found in self.items():
            title = TITLES.get(method, method)
            single = isinstance(found, Tensor)
            for number, tensor in enumerate([found] if single else found):
                name = title if single else f"{title}, input {number}"
                rows.append((name, *_describe(tensor)))
                if tensor.dim() == 4:
                    pictures += [
                        show_attribution(each, f"{name}, example {example}", _WIDTH)
                        for example, each in enumerate(tensor[:_EXAMPLES])
                    ]
        columns = ("Method", "Shape", "Smallest", "Largest")
        return lay_out("Attributions", pictures, columns, rows)


def _describe(tensor: Tensor) -> tuple[str, str, str]:
    if not tensor.numel():
        return str(tuple(tensor.shape)), "none", "none"
    return str(tuple(tensor.shape)), f"{float(tensor.min()):.3g}", f"{float(tensor.max()):.3g}"
