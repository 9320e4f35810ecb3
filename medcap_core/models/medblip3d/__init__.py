"""MedBLIP over 3D scans: a frozen image encoder and language model, bridged by a MedQFormer."""
