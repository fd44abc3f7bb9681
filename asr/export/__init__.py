"""Trained models in the files of other programs: ONNX in the layout that sherpa-onnx loads."""
