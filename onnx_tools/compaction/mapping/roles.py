"""What a stored tensor does for the channels along one of its axes."""

from __future__ import annotations

from enum import Enum


class Role(Enum):
    """MAKES: its entries along a channel compute it (output channels). READS: they take it in (input channels).

    SHIFTS: they are added to it (biases). SCALES: it is multiplied by them. DESCRIBES: all else there is one of for
    each channel (means, variances, slopes, quantisation scales).
    """

    MAKES = "makes"
    READS = "reads"
    SHIFTS = "shifts"
    SCALES = "scales"
    DESCRIBES = "describes"
