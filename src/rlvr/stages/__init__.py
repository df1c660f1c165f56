"""The stages of dvc.yaml: each reads its inputs, calls a driver, writes its outputs."""
