"""The adjoint report as a person asks for it: of a convolution in words, or of a network.

What is checked and how is `captum_deconv.adjoint`'s part. Here a text becomes a layer, a network
gets an input of the right shape, and the reports become a table, a file or a figure.

Example:
    >>> from captum_deconv import checkup
    >>> subject = checkup.describe_convolution("in=1,out=4,kernel=2,stride=2", (6, 6))
    >>> checkup.check_subject(subject)[""].rank
    36
"""

from captum_deconv.checkup.figure import draw_round_trip
from captum_deconv.checkup.reports import (
    check_subject,
    find_picturable,
    format_reports,
    save_reports,
)
from captum_deconv.checkup.subjects import (
    Subject,
    describe_convolution,
    describe_network,
    parse_size,
)

__all__ = [
    "Subject",
    "check_subject",
    "describe_convolution",
    "describe_network",
    "draw_round_trip",
    "find_picturable",
    "format_reports",
    "parse_size",
    "save_reports",
]
