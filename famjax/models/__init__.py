"""The model: layers, attention, the recurrent memory and the stack."""
