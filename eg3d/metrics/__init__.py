"""How good are the images: FID, KID, inception score, precision and recall, perceptual path length."""
