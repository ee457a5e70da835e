"""What the chapters are made with: claims, figures, animations and interactive pages."""
