# Members are added one by one: what others grant on the bucket is left alone.

resource "google_storage_bucket_iam_member" "viewer" {
  for_each = setunion(var.readers, var.writers)

  bucket = google_storage_bucket.this.name
  role   = "roles/storage.objectViewer"
  member = each.value
}

# Overwriting takes the permission to delete, which this role lacks: writers can only add.
resource "google_storage_bucket_iam_member" "creator" {
  for_each = var.writers

  bucket = google_storage_bucket.this.name
  role   = "roles/storage.objectCreator"
  member = each.value
}

# Read, create, delete; unlike objectAdmin without a say in who else may.
resource "google_storage_bucket_iam_member" "user" {
  for_each = var.admins

  bucket = google_storage_bucket.this.name
  role   = "roles/storage.objectUser"
  member = each.value
}
