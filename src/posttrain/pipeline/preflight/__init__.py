"""What can be refused before a run trains: each check on real rows with the real model, found before hours are lost."""
