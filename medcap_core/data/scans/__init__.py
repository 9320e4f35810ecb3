"""3D scans: records, volumes and their file formats."""
