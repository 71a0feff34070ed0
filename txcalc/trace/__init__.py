"""The record of a run: operations, tensors and their storages, and the programs of the models that leave it."""
