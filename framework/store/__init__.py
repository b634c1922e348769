"""What every prepared folder is made of: columns as files, a manifest, and how a folder appears."""
