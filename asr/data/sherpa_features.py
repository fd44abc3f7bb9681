"""Log-mel features as clients of sherpa-onnx compute them by default, for models that are exported to such clients.

They differ from Kaldi's defaults in three things, none of which can be undone afterwards: filters end 400 Hz below the
Nyquist frequency, a frame is centred in each shift of the signal (ends are mirrored), and full scale is 1. Checked against
sherpa-onnx 2.0.1 by the test of the export. A run is trained on them with

    features._target_=asr.data.sherpa_features.SherpaLogMel
"""

from typing import ClassVar

from asr.data.features import LogMel


class SherpaLogMel(LogMel):
    """``LogMel`` with the filters, framing and scale of sherpa-onnx; its settings are the same."""

    high_frequency_hz: ClassVar[float] = -400.0
    whole_frames_only: ClassVar[bool] = False
    full_scale: ClassVar[float] = 1.0
