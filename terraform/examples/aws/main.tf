provider "aws" {
  region = "us-east-1"
}

variable "bucket_name" {
  description = "Name of the bucket to create."
  type        = string
}

module "tritonsync" {
  source = "../../aws"

  bucket_name = var.bucket_name
}

output "url" {
  description = "What TRITONSYNC_URL is to be set to."
  value       = module.tritonsync.url
}

output "reader_policy_arn" {
  description = "Attach it to the workers that only read."
  value       = module.tritonsync.reader_policy_arn
}

output "writer_policy_arn" {
  description = "Attach it to the workers that also publish."
  value       = module.tritonsync.writer_policy_arn
}
