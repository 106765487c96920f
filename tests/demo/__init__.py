"""`make demo`: the product's main job on a real model and real data, checked against PEFT."""
